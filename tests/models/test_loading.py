"""Loading models: every route, and one sentence for everything that cannot be loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acdc_explain import load_model
from acdc_explain.errors import UserError
from acdc_explain.models.loading import weights_digest
from acdc_explain.models.network.shared import ungroup

from ..conftest import FAMILIES, make_hf_model, make_tokenizer, word_task


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
        "index", ["model.safetensors.index.json", "own.safetensors.index.json"]
    )
    def test_an_index_may_not_lead_to_pickles(self, index, tmp_path, model_folder):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        torch.save(tensors, tmp_path / "shard.bin")
        weights = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "shard.bin")}
        (tmp_path / index).write_text(json.dumps(weights))
        if index != "model.safetensors.index.json":
            change_config(tmp_path, transformers_weights=index)
        self.refused(str(tmp_path), "has weights in a pickle (")

    @pytest.mark.parametrize(
        ("architecture", "complaint"),
        [
            ("BertForMaskedLM", "reads classes that predict the next token"),
            ("BertGenerationDecoder", "reads classes that predict the next token"),
        ],
    )
    def test_unsupported_architectures(self, tmp_path, model_folder, architecture, complaint):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        file: Path = tmp_path / "config.json"
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "architectures": [architecture]})
        )
        self.refused(str(tmp_path), complaint)


def change_config(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def lacking(tensors, name):
    del tensors[name]


def cut_short(tensors, name):
    tensors[name] = tensors[name][:-1].contiguous()


def with_more(tensors, name):
    tensors[f"{name}.extra_bias"] = torch.zeros(3)


def with_nan(tensors, name):
    tensors[name].view(-1)[3] = float("nan")


def with_infinity(tensors, name):
    tensors[name].view(-1)[3] = float("inf")


def all_zero(tensors, name):
    tensors[name].zero_()


def a_dead_layer(tensors, name):
    for tensor in tensors:
        if tensor.startswith("model.layers.1.") and tensors[tensor].ndim > 1:
            tensors[tensor].zero_()


EMBEDDING, VALUES, NORM = (
    "model.embed_tokens.weight", "model.layers.1.self_attn.v_proj.weight", "model.norm.weight",
)  # fmt: skip


class TestIncompleteCheckpoints:
    """Missing, unused and degenerate weights are errors."""

    @pytest.mark.parametrize(
        ("change", "name", "complaint"),
        [
            (lacking, VALUES, f"lacks {VALUES}, which a LlamaForCausalLM has"),
            (lacking, NORM, f"lacks {NORM}"),
            (
                lacking,
                EMBEDDING,
                f"lacks lm_head.weight, {EMBEDDING}, which a LlamaForCausalLM has",
            ),
            (cut_short, VALUES, f"{VALUES} is 15 x 32 and should be 16 x 32"),
            (cut_short, EMBEDDING, f"{EMBEDDING} is 37 x 32 and should be 38 x 32"),
            (with_more, VALUES, f"holds {VALUES}.extra_bias, for which a LlamaForCausalLM has no"),
            (with_nan, NORM, f"{NORM} holds NaN or infinity"),
            (with_infinity, VALUES, f"{VALUES} holds NaN or infinity"),
            (all_zero, EMBEDDING, "the embedding is all zeros"),
            (a_dead_layer, "", "every matrix of model.layers.1 is all zeros"),
        ],
    )
    @pytest.mark.parametrize("sharded", [False, True])
    def test_of_safetensors(self, change, name, complaint, sharded, tmp_path, model_folder):
        shutil.copytree(model_folder("llama"), tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors.setdefault(EMBEDDING, tensors.get("lm_head.weight"))
        tensors.pop("lm_head.weight", None)
        change_config(tmp_path, tie_word_embeddings=True)
        change(tensors, name)
        self.write(tmp_path, tensors, 3 if sharded else 1)
        with pytest.raises(UserError) as caught:
            load_model(str(tmp_path))
        assert complaint in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def write(self, folder: Path, tensors, shards: int) -> None:
        (folder / "model.safetensors").unlink()
        if shards == 1:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            return
        weights = {}
        for shard in range(shards):
            part = {n: t for i, (n, t) in enumerate(sorted(tensors.items())) if i % shards == shard}
            save_file(part, folder / f"{shard}.safetensors", metadata={"format": "pt"})
            weights |= dict.fromkeys(part, f"{shard}.safetensors")
        index = {"metadata": {}, "weight_map": weights}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def test_masks_of_old_checkpoints_are_no_weights(self, tmp_path, model_folder, small_model):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        self.write(tmp_path, tensors, 1)
        assert load_model(str(tmp_path)).id.split("@")[1] == small_model("gpt2").id.split("@")[1]

    @pytest.mark.parametrize(
        ("leave_out", "more", "complaint"),
        [
            ("blk.0.attn_v.weight", "", "lacks model.layers.0.self_attn.v_proj.weight"),
            ("output_norm.weight", "", "lacks model.norm.weight"),
            ("", "blk.0.attn_q.bias", "holds blk.0.attn_q.bias, for which a LlamaForCausalLM has"),
            ("", "", None),
            ("", "rope_freqs.weight", None),
        ],
    )
    def test_of_gguf(self, leave_out, more, complaint, tmp_path):
        file = tmp_path / "x.gguf"
        write_gguf(file, leave_out, more)
        if complaint is None:
            assert load_model(str(file)).n_parameters > 0
            return
        with pytest.raises(UserError) as caught:
            load_model(str(file))
        assert complaint in str(caught.value)
        assert str(file) in str(caught.value)

    def test_a_tokenizer_of_another_model(self, tmp_path, model_folder):
        shutil.copytree(model_folder("gpt2"), tmp_path, dirs_exist_ok=True)
        tokenizer = make_tokenizer()
        tokenizer.add_tokens([f" more{n}" for n in range(4)])
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"tokens up to number 41 \(' more3'\) and the model"):
            load_model(str(tmp_path))

    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    @pytest.mark.parametrize("left", [(), ("tokenizer_config.json",), ("tokenizer.json",)])
    def test_no_tokenizer(self, family, left, tmp_path, model_folder):
        """transformers makes an empty one of its own for some architectures."""
        shutil.copytree(model_folder(family), tmp_path, dirs_exist_ok=True)
        for file in tmp_path.glob("tokenizer*"):
            if file.name not in left:
                file.unlink()
        if left == ("tokenizer.json",):
            (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(UserError, match="has no tokenizer that can be read"):
            load_model(str(tmp_path))


def write_gguf(file: Path, leave_out: str = "", more: str = "") -> None:
    """A Llama of random weights with a vocabulary of letters."""
    import gguf
    import numpy as np

    model = make_hf_model("llama")
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    for field, value in {
        "context_length": 32, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads, "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps, "vocab_size": config.vocab_size,
        "tokenizer_model": "gpt2", "token_merges": ["a b", "c d"], "bos_token_id": 0, "eos_token_id": 0,
    }.items():  # fmt: skip
        getattr(writer, f"add_{field}")(value)
    tokens = ["<bos>", "<unk>", "ab", "cd", "Ġ", *(chr(97 + n) for n in range(26))]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name != "lm_head.weight" and known != leave_out:
            writer.add_tensor(known, value.float().numpy())
    if more:
        writer.add_tensor(more, np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_in_a_folder_is_never_run(part, tmp_path, model_folder):
    """In a process of its own: standard input says yes to whatever asks."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model_folder("llama"), folder)
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        "from transformers import PreTrainedTokenizerFast as Words\n"
    )
    if part == "model":
        classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        change_config(folder, auto_map=classes, model_type="strange")
    else:
        change_config(folder, model_type="llama")
        file = folder / "tokenizer_config.json"
        own = {"auto_map": {"AutoTokenizer": [None, "own.Words"]}, "tokenizer_class": "Words"}
        file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    done = subprocess.run(
        [sys.executable, "-m", "acdc_explain", "doctor", str(folder)],
        input="y\n" * 50, capture_output=True, text=True,
    )  # fmt: skip
    assert not ran.exists()
    assert "Do you wish to run" not in done.stdout + done.stderr
    if part == "model":
        assert done.returncode == 1
        assert "can only be read by running Python code that comes with it" in done.stderr
        assert done.stderr.count("\n") <= 3  # "load ..." and the sentence


class TestShippedModels:
    """Their hashes are checked whenever they are read."""

    def test_mini(self, tmp_path, monkeypatch):
        from acdc_explain_plugins.models import small as models

        assert models.mini().is_dir()
        shutil.copytree(models.mini(), tmp_path / "mini_model")
        monkeypatch.setattr(models, "__file__", str(tmp_path / "models" / "small.py"))
        assert models.mini() == tmp_path / "mini_model"
        for name in models.MINI_SHA256:
            file = tmp_path / "mini_model" / name
            whole = file.read_bytes()
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(UserError, match=f"{name} is not the file known here.*again"):
                load_model("mini")
            file.write_bytes(whole)

    def test_the_downloaded_file(self, tmp_path, monkeypatch):
        from acdc_explain_plugins.models import small as models

        monkeypatch.setattr(models, "_installed", lambda: None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        file = tmp_path / "acdc-explain" / models.GGUF
        file.parent.mkdir()
        write_gguf(file)
        with pytest.raises(UserError, match="is not the file known here.*delete it, and it is dow"):
            load_model("smollm2-135m")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> str:
    """A model of the hub as it lies in the cache: its main branch, and a tag with other weights."""
    repository = tmp_path / "models--someone--small"
    for folder in ("refs", "blobs"):
        (repository / folder).mkdir(parents=True)
    for seed, (ref, commit) in enumerate((("main", "a" * 40), ("step1000", "b" * 40))):
        (repository / "refs" / ref).write_text(commit)
        snapshot = repository / "snapshots" / commit
        make_hf_model("neox", seed=seed).save_pretrained(snapshot)
        make_tokenizer().save_pretrained(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return "someone/small"


class TestRevisions:
    def test_a_tag_and_a_commit(self, hub):
        usual, tag, commit = (load_model(hub, revision=x) for x in (None, "step1000", "b" * 40))
        assert tag.id == commit.id != usual.id
        assert usual.id == load_model(hub, revision="main").id
        assert [x.revision for x in (usual, tag, commit)] == [None, "step1000", "b" * 40]

    def test_one_that_is_not_there(self, hub):
        with pytest.raises(UserError, match="There is no model 'someone/small' of this revision"):
            load_model(hub, revision="step1001")

    def test_what_is_not_of_the_hub_has_none(self, model_folder):
        for name in ("mini", str(model_folder("neox"))):
            with pytest.raises(UserError, match="is not read from the hub here, so leave out"):
                load_model(name, revision="main")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_type_is_that_of_the_weights(dtype, small_model):
    model = small_model("neox", dtype=dtype)
    assert str(model.dtype) == f"torch.{dtype}"
    assert model.id == small_model("neox").id


def test_a_task_needs_foils_for_a_logit_difference(small_model):
    from dataclasses import replace

    from acdc_explain.models.contrast import Contrast

    task = word_task(2)
    bare = tuple(replace(example, foils=()) for example in task.discover)
    with pytest.raises(UserError, match="Metric 'logit_diff' compares answers with foils"):
        Contrast(small_model("gpt2"), task, bare)
    Contrast(small_model("gpt2"), task, bare, "nll")


def test_falcon_with_alibi_is_refused(tmp_path):
    """Its eager attention, which we need, gives other logits than its usual attention."""
    from transformers import AutoModelForCausalLM

    from .families import save

    save("falcon-rw", tmp_path)
    tokens, logits = torch.arange(2, 11)[None], []
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention)
        with torch.no_grad():
            logits.append(model.eval()(tokens).logits)
    assert not torch.allclose(*logits, atol=0.01)  # when this fails, Falcon need not be refused
    with pytest.raises(UserError, match="adds its biases by distance .ALiBi. twice"):
        load_model(str(tmp_path))


def test_a_soft_cap_within_the_noise_of_half_precision_is_kept(tmp_path):
    """Its effect on these logits is smaller than what rounding may do to them."""
    from .families import build, save

    save("gemma2", tmp_path)
    largest = float(
        build("gemma2").requires_grad_(False)(torch.arange(2, 9)[None]).logits.abs().max()
    )
    change_config(tmp_path, final_logit_softcapping=20 * largest)
    model = load_model(str(tmp_path), dtype="bfloat16")
    assert model.network.soft_cap == pytest.approx(20 * largest)
