"""GPT-2 models whose weights are written by hand: an empty network, directions, a tokenizer."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 1e8  # what a LayerNorm adds to the variance: so much that it scales by a constant


def mean_zero_basis(dimensions: int, width: int, seed: int) -> Tensor:
    """Orthogonal directions of mean zero [dimension width], which LayerNorm leaves unchanged."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, dimensions, generator=generator, dtype=torch.float64)
    ones = torch.ones(width, 1, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(torch.cat([ones, noise], 1))[0][:, 1:].T
    return directions


def blank_gpt2(**sizes: Any) -> Any:
    """A GPT-2 of zeros whose LayerNorms only subtract the mean.

    Args:
        sizes: Fields of `transformers.GPT2Config`.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        layer_norm_epsilon=FLAT, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **sizes,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm_weight = "ln_" in name and name.endswith("weight")
            parameter.fill_(FLAT**0.5 if norm_weight else 0.0)
    return model


def word_tokenizer(vocabulary: Sequence[str], pattern: str) -> Any:
    """A fast tokenizer: every match of `pattern` is one token, after a first `<bos>`.

    Args:
        vocabulary: The tokens in the order of their ids, `<bos>` first; `<unk>` is among them.
        pattern: A regular expression for one word.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend(
        models.WordLevel({piece: n for n, piece in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", unk_token="<unk>")


def saved(model: Any, tokenizer: Any) -> Path:
    """A temporary folder with a model and its tokenizer, removed when the program ends."""
    from acdc_explain.models.loading import quiet

    path = Path(mkdtemp(prefix="acdc-explain-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    with quiet():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path
