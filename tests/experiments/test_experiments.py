"""Experiments in a notebook, against plain Hugging Face and against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import acdc_explain as ax

from ..conftest import HEADS, WIDTH, word_task


@pytest.fixture(scope="module")
def contrast(small_model: Any) -> Any:
    return ax.contrast(word_task(4), small_model("gpt2", "float64"))


def hugging_face(contrast: Any) -> Any:
    """The model as Hugging Face made it, in float64, and the clean and corrupted tokens."""
    from ..conftest import make_hf_model

    return make_hf_model("gpt2").double(), contrast.clean, contrast.corrupt


@torch.no_grad()
def head_outputs(model: Any, tokens: Any, layer: int) -> torch.Tensor:
    """What goes into a layer's output projection, a block of columns a head."""
    kept: list[torch.Tensor] = []
    projection = model.transformer.h[layer].attn.c_proj
    handle = projection.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model(tokens)
    handle.remove()
    return kept[0]


class TestAblate:
    def test_equals_a_hook_on_hugging_face(self, contrast):
        model, clean, corrupt = hugging_face(contrast)
        layer, head, width = 0, 2, WIDTH // HEADS
        other = head_outputs(model, corrupt.tokens, layer)
        columns = slice(head * width, (head + 1) * width)
        end = clean.end

        def at_end(module: Any, args: Any) -> Any:
            changed = args[0].clone()
            changed[clean.rows, end, columns] = other[clean.rows, end, columns]
            return (changed,)

        projection = model.transformer.h[layer].attn.c_proj
        handle = projection.register_forward_pre_hook(at_end)
        with torch.no_grad():
            logits = model(clean.tokens).logits[clean.rows, end]
        handle.remove()
        effect = ax.ablate(contrast, "a0.h2", "END")
        torch.testing.assert_close(effect.after, contrast.metric(logits), rtol=0, atol=1e-9)
        assert effect.loss == pytest.approx(float((effect.before - effect.after).mean()))

    def test_everywhere_is_more_than_at_the_end(self, contrast):
        at_end, everywhere = ax.ablate(contrast, "m0", "END"), ax.ablate(contrast, "m0")
        assert not torch.equal(at_end.after, everywhere.after)
        low, high = everywhere.interval
        assert low <= everywhere.loss <= high
        assert "m0 ablated" in repr(everywhere)

    def test_errors(self, contrast):
        with pytest.raises(ax.UserError, match="no position 'EN'; did you mean END"):
            ax.ablate(contrast, "a0.h0", "EN")
        with pytest.raises(ax.UserError, match="has no node a9.h9"):
            ax.ablate(contrast, "a9.h9")
        with pytest.raises(ax.UserError, match="neither a head nor an MLP"):
            ax.ablate(contrast, "input")
        with pytest.raises(ax.UserError, match="is no node"):
            ax.ablate(contrast, "head 3")


class TestPaths:
    @pytest.mark.parametrize("port", ["q", "k", "v"])
    def test_a_patched_path_is_a_cut_edge(self, contrast, port):
        """Two programs: one runs the receiver alone, the other hooks the whole model."""
        patched = ax.path_patch(contrast, "a0.h1", "a1.h3", port)
        cut = ax.cut(contrast, f"a0.h1->a1.h3<{port}>")
        torch.testing.assert_close(patched.after, cut.after, rtol=0, atol=1e-9)
        assert not torch.allclose(cut.after, cut.before, atol=1e-6)
        moved = float(patched.attention_moved.abs().max())
        assert moved == 0 if port == "v" else moved > 0
        assert float(patched.output_changed.max()) > 0
        assert f"a0.h1->a1.h3<{port}> patched" in repr(patched)

    def test_an_edge_into_the_logits(self, contrast):
        """The last stream without the change that the sender's ablation makes."""
        effect = ax.cut(contrast, "m1->logits")
        index = contrast.model.graph.writer_index[ax.Node.parse("m1")]
        change = contrast.corrupt_run.writers[index] - contrast.clean_run.writers[index]
        final = contrast.clean_run.final + contrast.clean.at_end(change)
        expected = contrast.metric(contrast.model.unembed(final))
        torch.testing.assert_close(effect.after, expected, rtol=0, atol=1e-9)

    def test_errors(self, contrast):
        with pytest.raises(ax.UserError, match="has no edge a1.h0->a0.h0<q>"):
            ax.cut(contrast, "a1.h0->a0.h0<q>")
        with pytest.raises(ax.UserError, match="ends in <q>"):
            ax.cut(contrast, "a0.h0->a1.h0")
        with pytest.raises(ax.UserError, match="name an earlier sender"):
            ax.path_patch(contrast, "a1.h0", "a0.h0", "q")


class TestAttention:
    def test_equals_hugging_face(self, contrast, small_model):
        from ..conftest import make_hf_model

        pattern = ax.attention(contrast.model, "a1.h2", " cat dog bird")
        model = make_hf_model("gpt2").double()
        model.set_attn_implementation("eager")
        tokens = contrast.model.batch([" cat dog bird"]).tokens
        with torch.no_grad():
            expected = model(tokens, output_attentions=True).attentions[1][0, 2]
        torch.testing.assert_close(pattern.weights, expected.float(), rtol=0, atol=1e-6)
        assert pattern.tokens[1:] == (" cat", " dog", " bird")
        text, number, weight = pattern.top()[0]
        assert pattern.tokens[number] == text
        assert weight == pytest.approx(float(pattern.weights[-1].max()), abs=1e-4)
        assert pattern.to_pandas().shape == (4, 4)
        assert "<svg" in pattern._repr_html_()
        assert repr(pattern).startswith("a1.h2 attends from the last token ' bird' to ")

    def test_errors(self, contrast):
        with pytest.raises(ax.UserError, match="has no head a9.h0"):
            ax.attention(contrast.model, "a9.h0", " cat")
        with pytest.raises(ax.UserError, match="'head 3' is no node"):
            ax.attention(contrast.model, "head 3", " cat")
        with pytest.raises(ax.UserError, match="prompt is empty"):
            ax.attention(contrast.model, "a0.h0", "")


class TestATaskFromLists:
    CLEAN = (" cat dog", " dog cat", " red blue", " one two")
    CORRUPT = (" bird dog", " bird cat", " six blue", " four two")

    def test_every_second_prompt_is_held_out(self):
        task = ax.Task.from_prompts(
            "pairs", self.CLEAN, self.CORRUPT, [" cat", " dog", " red", [" one", " two"]],
            [" bird"] * 4, positions={"FIRST": 0, "END": [1, 1, 1, 1]},
        )  # fmt: skip
        assert [example.clean for example in task.discover] == [" cat dog", " red blue"]
        assert [example.answers for example in task.held_out] == [(" dog",), (" one", " two")]
        assert task.metric == "logit_diff"
        assert task.position_names == ("FIRST", "END")

    def test_without_foils(self):
        task = ax.Task.from_prompts("pairs", self.CLEAN, self.CORRUPT, [" cat"] * 4)
        assert task.metric == "nll"

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"corrupt": (" a",)}, "corrupt has 1 entries for 4 prompts"),
            ({"positions": {"END": [1]}}, "END has 1 entries for 4 prompts"),
            ({"clean": (" cat dog",) * 4}, "no two the same"),
        ],
    )
    def test_errors(self, change, complaint):
        given = {"clean": self.CLEAN, "corrupt": self.CORRUPT, "answers": [" cat"] * 4}
        with pytest.raises(ax.UserError, match=complaint):
            ax.Task.from_prompts("pairs", **{**given, **change})


class TestWithoutAStore:
    def test_a_circuit_is_that_of_a_run(self, small_model, tmp_path):
        model, task = small_model("neox"), word_task(4)
        circuit = ax.find_circuit(task, model, "eap", max_edges=12)
        run = ax.explain(
            task, model, store=tmp_path / "s.duckdb", discoverer="eap", max_edges=12, anyway=True
        )
        assert circuit.id == run.circuit.id
        assert circuit.edges == run.circuit.edges
        assert circuit.faithfulness == run.circuit.faithfulness
        assert not (tmp_path / "store.duckdb").exists()

    def test_unknown_settings(self, small_model):
        with pytest.raises(ax.UserError, match="has no setting 'tua'"):
            ax.find_circuit(word_task(4), small_model("neox"), tua=0.1)
        with pytest.raises(ax.UserError, match="no discoverer 'acdcc'; did you mean acdc"):
            ax.find_circuit(word_task(4), small_model("neox"), "acdcc")

    def test_draw(self, small_model, tmp_path):
        circuit = ax.find_circuit(word_task(4), small_model("neox"), "eap", max_edges=12)
        picture = ax.draw(circuit, tmp_path / "circuit.html")
        assert "<svg" in picture._repr_html_()
        assert (tmp_path / "circuit.html").read_text() == picture.html
        with pytest.raises(ax.UserError, match="ending in .html"):
            ax.draw(circuit, tmp_path / "circuit.png")
