"""Models with random weights and prompts of random words, of any size, for timings."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from acdc_explain import load_model
from acdc_explain.models.loading import quiet
from acdc_explain.models.model import Model
from acdc_explain.records.task import Example, Task

WORDS = [f"w{number}" for number in range(500)]


def random_model(shape: str, **sizes: int) -> Model:
    """`gpt2` has the shape of GPT-2 small and `llama` that of SmolLM2, except for `sizes`."""
    import torch

    torch.manual_seed(0)
    config, kind = _config(shape, sizes)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 2  # so that heads attend to something
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
        loaded = load_model(folder)
    loaded.name = Path(shape).name
    return loaded


def _config(shape: str, sizes: dict[str, int]) -> tuple[Any, Any]:
    import transformers

    if shape == "gpt2":
        fields = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, **sizes}
        return transformers.GPT2Config(**fields), transformers.GPT2LMHeadModel
    fields = {
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        **sizes,
    }
    return transformers.LlamaConfig(**fields), transformers.LlamaForCausalLM


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: n for n, piece in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def random_task(examples: int, length: int) -> Task:
    """Clean and corrupted prompts differ in three tokens, one of them the second."""
    rng = random.Random(0)
    drawn = []
    for _ in range(2 * examples):
        words = rng.choices(WORDS, k=length)
        corrupt = list(words)
        for place in (1, length // 2, length - 2):
            corrupt[place] = rng.choice(WORDS)
        answer, foil = rng.sample(WORDS, 2)
        drawn.append(Example(" ".join(words), " ".join(corrupt), (answer,), (foil,)))
    return Task("random", "", "logit_diff", tuple(drawn[:examples]), tuple(drawn[examples:]))
