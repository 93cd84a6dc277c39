"""Path patching and composition against plain hooked runs of the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acdc_explain.evidence.attention import at_position
from acdc_explain.evidence.composition import repeated
from acdc_explain.evidence.measurement import NotMeasurable
from acdc_explain.evidence.patching.paths import PathPatching
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.network.hooks import Point
from acdc_explain.records.circuit import Node
from acdc_explain.records.task import Example, Task

from ..conftest import FAMILIES, word_task


def subject_of(model: Any, n: int = 4) -> Contrast:
    task = word_task(n)
    return Contrast(model, task, task.discover)


@pytest.mark.parametrize("family", FAMILIES)
class TestPaths:
    @pytest.mark.parametrize("port", ["q", "k", "v"])
    def test_a_changed_port_is_what_hooks_make_of_it(self, family, port, small_model):
        """Against the whole model, with one head's port reading something else."""
        contrast = subject_of(small_model(family))
        model, paths, receiver = contrast.model, PathPatching(contrast), Node("head", 1, 2)
        senders = [Node("input"), Node("head", 0, 1), Node("mlp", 0)]
        change = paths.cut(senders)
        received = paths.receive(receiver, {port: change})
        for place in range(len(senders)):
            values: dict[str, torch.Tensor] = {}

            def put(value, place=place):
                value = value.clone()
                value[:, :, 2] += change[place]
                return value

            def watch(name, values=values):
                return lambda value: values.__setitem__(name, value)

            hooks = [
                (Point(port, 1), put),
                (Point("pattern", 1), watch("pattern")),
                (Point("heads", 1), watch("result")),
            ]
            with torch.no_grad():
                model.forward(contrast.clean, hooks)
            within = contrast.clean.within
            pattern = values["pattern"][:, 2]
            assert torch.allclose(received.pattern[place][within], pattern[within], atol=1e-5)
            written = values["result"][:, :, 2]
            assert torch.allclose(received.written[place][within], written[within], atol=1e-4)

    def test_one_query_of_each_prompt_is_a_row_of_all(self, family, small_model):
        contrast = subject_of(small_model(family))
        paths, receiver, end = PathPatching(contrast), Node("head", 1, 0), contrast.clean.end
        change = paths.cut([Node("head", 0, 3)])
        rows = contrast.clean.rows
        for port in "qkv":
            whole = paths.receive(receiver, {port: change})
            q_change = change[:, rows, end][:, :, None] if port == "q" else change
            one = paths.receive(receiver, {port: q_change}, end)
            assert torch.allclose(one.pattern[:, :, 0], whole.pattern[:, rows, end], atol=1e-6)
            assert torch.allclose(one.written[:, :, 0], whole.written[:, rows, end], atol=1e-5)

    def test_with_its_attention_a_head_writes_its_output(self, family, small_model):
        contrast = subject_of(small_model(family))
        paths, head = PathPatching(contrast), Node("head", 1, 1)
        written = paths.output_with(head, contrast.clean_run.patterns[1, :, 1])
        expected = contrast.clean_run.writers[contrast.model.graph.writer_index[head]]
        assert torch.allclose(written, expected, atol=1e-5)

    def test_what_the_mlp_reads(self, family, small_model):
        contrast = subject_of(small_model(family))
        values: list[torch.Tensor] = []
        hooks = [(Point("mlp_in", 1), values.append)]
        with torch.no_grad():
            contrast.model.forward(contrast.clean, hooks)
        assert torch.allclose(PathPatching(contrast).clean.mlp_stream(1), values[0], atol=1e-5)


class TestRepeated:
    def contrast(self, model: Any, clean: str, corrupt: str) -> Contrast:
        example = Example(clean, corrupt, (" cat",), (" dog",), {"END": len(clean.split()) - 1})
        return Contrast(model, Task("t", "", "logit_diff", (example,), ()), [example])

    def test_only_what_the_corruption_takes_away(self, small_model):
        """`the` stays repeated, `dog` does not: from the second dog to what followed the first."""
        contrast = self.contrast(
            small_model("gpt2"), " the dog saw the bird dog", " the dog saw the bird fish"
        )
        start = len(contrast.model.prefix)
        assert repeated(contrast)[0].nonzero().tolist() == [[start + 5, start + 2]]

    def test_nothing_is_repeated(self, small_model):
        contrast = self.contrast(small_model("gpt2"), " the dog saw", " the cat saw")
        with pytest.raises(NotMeasurable, match="repeats a token"):
            repeated(contrast)


def test_a_position_that_no_example_names(small_model):
    with pytest.raises(NotMeasurable, match="no position 'subject'"):
        at_position(subject_of(small_model("gpt2")), "subject")
