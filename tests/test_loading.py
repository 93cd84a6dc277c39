"""Loading models: every route, and one sentence for everything that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from acdc_explain import load_model
from acdc_explain.errors import UserError
from acdc_explain.loading import ungroup, weights_digest

from .conftest import FAMILIES, make_hf_model, make_tokenizer, word_task


def logits_of(hf_model, model, text: str) -> torch.Tensor:
    ids = torch.tensor([[*model.prefix, *model.token_ids(text)]])
    with torch.no_grad():
        return hf_model(ids).logits[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_as_hugging_face_padded_or_not(family, small_model):
    model, hf_model = small_model(family), make_hf_model(family)
    texts = [" the cat saw", " dog", " one two three four five six"]
    with torch.no_grad():
        found = model.forward(model.batch(texts))
    for row, text in zip(found, texts):
        assert torch.allclose(row, logits_of(hf_model, model, text), atol=1e-4)


def test_ungrouping_keeps_the_logits_and_the_digest():
    grouped, ungrouped = make_hf_model("llama"), make_hf_model("llama")
    digest = weights_digest(grouped)
    ungroup(ungrouped)
    ids = torch.randint(0, 40, (2, 9))
    with torch.no_grad():
        assert torch.allclose(grouped(ids).logits, ungrouped(ids).logits, atol=1e-5)
    assert ungrouped.config.num_key_value_heads == 4
    assert weights_digest(make_hf_model("llama")) == digest != weights_digest(ungrouped)


def test_id_tells_other_weights_apart(small_model, model_folder, tmp_path):
    make_hf_model("gpt2", seed=1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    other = load_model(str(tmp_path))
    again = load_model(str(model_folder("gpt2")))
    assert other.id.split("@")[1] != again.id.split("@")[1]
    assert small_model("gpt2").id == again.id


def test_prefix_is_what_the_tokenizer_puts_in_front(small_model):
    model = small_model("gpt2")
    assert model.prefix == (0,)
    assert model.pieces(" the cat") == [" the", " cat"]
    assert model.batch([" the cat", " dog"]).tokens.shape == (2, 3)


def test_single_words(small_model):
    model = small_model("gpt2")
    assert model.piece(model.single(" cat")) == " cat"
    with pytest.raises(UserError, match="is 2 tokens"):
        model.single(" cat dog")
    with pytest.raises(IndexError):
        model.piece(10**9)


def test_a_prompt_longer_than_the_context(small_model):
    with pytest.raises(UserError, match="has 34 tokens and .* reads at most 32"):
        small_model("gpt2").batch([" cat" * 33])


class TestWhatCannotBeLoaded:
    def refused(self, name: str, complaint: str) -> None:
        with pytest.raises(UserError) as caught:
            load_model(name)
        text = str(caught.value)
        assert complaint in text
        assert "\n" not in text

    def test_unknown_name(self):
        self.refused("no-such-model", "There is no model 'no-such-model': it is none of mini, ")

    def test_no_gguf_file(self):
        self.refused("none.gguf", "There is no file none.gguf")

    def test_no_folder(self):
        self.refused("./none/at/all", "There is no folder ./none/at/all")

    def test_a_file_that_is_no_gguf(self, tmp_path):
        (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\0" * 100)
        self.refused(str(tmp_path / "x.gguf"), "cannot be read as a model")
        (tmp_path / "y.gguf").write_text("hello")
        self.refused(str(tmp_path / "y.gguf"), "cannot be read as a model")

    def test_another_file(self, tmp_path):
        (tmp_path / "x.bin").write_text("hello")
        self.refused(str(tmp_path / "x.bin"), "is a file, but no .gguf file")

    def test_a_folder_without_a_model(self, tmp_path):
        self.refused(str(tmp_path), "has no config.json")

    def test_damaged_config(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        self.refused(str(tmp_path), "cannot be read as a model")

    def test_truncated_weights(self, tmp_path, model_folder):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        self.refused(str(tmp_path), "cannot be read as a model")

    def test_pickled_weights_are_not_read(self, tmp_path, model_folder):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors").unlink()
        torch.save(make_hf_model("gpt2").state_dict(), tmp_path / "pytorch_model.bin")
        self.refused(str(tmp_path), "cannot be read as a model")

    @pytest.mark.parametrize(
        ("architecture", "complaint"),
        [
            ("BertForMaskedLM", "is no causal language model"),
            ("StrangeForCausalLM", "TransformerBridge does not support"),
        ],
    )
    def test_unsupported_architectures(self, tmp_path, model_folder, architecture, complaint):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        file: Path = tmp_path / "config.json"
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "architectures": [architecture]})
        )
        self.refused(str(tmp_path), complaint)

    def test_a_norm_over_the_summed_heads(self, tmp_path):
        """OLMo 2 normalises the attention's output: heads do not add up to the stream."""
        from transformers import Olmo2Config, Olmo2ForCausalLM

        config = Olmo2Config(
            vocab_size=44, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, intermediate_size=48, pad_token_id=0, bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
        Olmo2ForCausalLM(config).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(UserError, match="do not add up|cannot be split"):
            load_model(str(tmp_path))


def test_a_task_needs_foils_for_a_logit_difference(small_model):
    from dataclasses import replace

    from acdc_explain.subject import Subject

    task = word_task(2)
    bare = tuple(replace(example, foils=()) for example in task.discover)
    with pytest.raises(UserError, match="Metric 'logit_diff' compares answers with foils"):
        Subject(small_model("gpt2"), task, bare)
    Subject(small_model("gpt2"), task, bare, "nll")
