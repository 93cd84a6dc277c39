"""Checks of every checkpoint: the model is complete, not degenerate, and can be split exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .activations import Batch
from .model import Model
from .network.hooks import Point, hooked
from .network.parts import capped
from .network.patch import bypass_of_ports, leak_between_heads, misplaced_ports
from .network.precision import (
    ROUNDINGS,
    TOLERANCE,
    Check,
    is_half,
    noise,
    precise,
    relative_error,
    rounded,
)
from .network.watch import PROMPTS, TOKENS, probe_tokens, watch

NO_WEIGHTS = re.compile(r"\.(masked_bias|inv_freq)$|\.(attn|attention)\.bias$")
"""Masks and tables in old checkpoints that models now compute themselves."""

NO_WEIGHTS_IN_GGUF = re.compile(r"^rope_(freqs|factors_\w+)\.weight$")
SPREAD = 5.0  # the multiple of half precision's noise that is allowed
LAYER = re.compile(r"^.*?\.\d+(?=\.)")


@contextmanager
def no_pickles() -> Iterator[list[str]]:
    """Make torch.load raise UserError, so that no pickle is read, whatever an index points to.

    Yields the list of files that would have been unpickled.
    """
    refused: list[str] = []
    load = torch.load

    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        refused.append(str(file))
        raise UserError(f"{file} is a pickle.")

    torch.load = refuse  # type: ignore[assignment]
    try:
        yield refused
    finally:
        torch.load = load


def check_weights(where: str, hf_model: Any, loading_info: Mapping[str, Any]) -> None:
    """Raise UserError unless the checkpoint has exactly the model's weights, in their shapes.

    `loading_info`: what from_pretrained returns as such.
    """
    if missing := sorted(loading_info["missing_keys"]):
        raise UserError(
            f"{where} lacks {_some(missing)}, which a {type(hf_model).__name__} has; random "
            "numbers would stand there, so use a complete checkpoint."
        )
    if wrong := sorted(loading_info["mismatched_keys"]):
        name, shape, expected = wrong[0]
        raise UserError(
            f"{where} does not fit its configuration: {name} is {_shape(shape)} and should be "
            f"{_shape(expected)}{_more(len(wrong) - 1)}; use the config.json of these weights."
        )
    check_unexpected(where, hf_model, loading_info["unexpected_keys"])
    if loading_info.get("error_msgs"):
        raise UserError(f"{where} cannot be read as a model: {loading_info['error_msgs'][0]}")


def check_unexpected(where: str, hf_model: Any, names: Iterable[str]) -> None:
    """Raise UserError for weights that have no place in the model; they would be dropped."""
    if unused := sorted(name for name in names if not NO_WEIGHTS.search(name)):
        raise UserError(
            f"{where} holds {_some(unused)}, for which a {type(hf_model).__name__} has no place, "
            "so the model would not be the one that was saved; use the config.json of these "
            "weights."
        )


def check_gguf(where: str, file: Path, hf_model: Any) -> None:
    """As `check_unexpected`, for a GGUF file, whose reader skips tensors that it does not know."""
    from gguf import GGUFReader
    from transformers import modeling_gguf_pytorch_utils as reader

    kind = reader.TENSOR_PROCESSORS.get(hf_model.config.model_type, reader.TensorProcessor)
    mapped = reader.get_gguf_hf_weights_map(hf_model, kind(config=hf_model.config.to_dict()))
    names = {str(tensor.name) for tensor in GGUFReader(file).tensors}
    unused = {n for n in names if n not in mapped and not NO_WEIGHTS_IN_GGUF.match(n)}
    check_unexpected(where, hf_model, unused - {"output.weight"})


def check_numbers(where: str, hf_model: Any) -> None:
    """Raise UserError if a weight is NaN or infinite, or an embedding or a layer is all zeros."""
    layers: dict[str, bool] = {}  # whether any matrix of a layer has an entry that is not zero
    for name, value in hf_model.state_dict().items():
        if not value.is_floating_point():
            continue
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: {name} holds NaN or infinity; use an undamaged checkpoint.")
        layer = LAYER.match(name)
        if layer and value.ndim > 1:
            layers[layer[0]] = layers.get(layer[0], False) or bool(value.any())
    parts = {
        "the embedding": hf_model.get_input_embeddings(),
        "the unembedding": hf_model.get_output_embeddings(),
    }
    zero = [name for name, part in parts.items() if part is not None and not part.weight.any()]
    zero += [f"every matrix of {layer}" for layer, nonzero in layers.items() if not nonzero]
    if zero:
        raise UserError(
            f"{where}: {zero[0]} is all zeros, so the model does nothing with a prompt."
        )


def check_tokenizer(where: str, hf_model: Any, tokenizer: Any) -> None:
    """Raise UserError unless there is a tokenizer and the model embeds each of its tokens."""
    vocabulary = tokenizer.get_vocab()
    if not set(vocabulary) - set(tokenizer.all_special_tokens):
        raise no_tokenizer(where)
    rows = int(hf_model.get_input_embeddings().weight.shape[0])
    token, last = max(vocabulary.items(), key=lambda item: int(item[1]))
    if last >= rows:
        raise UserError(
            f"{where}: the tokenizer has tokens up to number {last} ({token!r:.40}) and the model "
            f"embeds {rows}, so they do not belong together; use the model's own tokenizer."
        )


LEAK = "what other heads mix when one head is changed"
MISPLACED = "the attention weights when values, or queries of other tokens, are changed"
BYPASS = "the values that heads mix when all but their queries, keys and values changes"
_MEANING = {
    LEAK: "its heads are not separate: ",
    MISPLACED: "its queries, keys and values are not where they are looked for: ",
    BYPASS: "its heads read the stream beside their queries, keys and values: ",
}


def check_split(model: Model) -> None:
    """Raise UserError unless the model splits into heads and MLPs exactly; set `model.checks`."""
    model.checks = tuple(_split_checks(model))
    for check in model.checks:
        if not check.passed:
            raise UserError(
                f"{model.name} ({model.architecture}) cannot be split into heads and MLPs here: "
                f"{_MEANING.get(check.what, '')}{check.what} are off by {check.error:.1g} "
                "(relative); docs/models.md lists the families that can."
            )


def _limit(model: Model) -> float:
    """How far two exact ways to compute the model's logits may be apart.

    In half precision, that is a multiple of what one rounding of the first stream does to them.
    """
    if not is_half(model.dtype):
        return TOLERANCE
    network, tokens = model.network, probe_tokens(model.hf_model)
    plain = model.hf_model(tokens, use_cache=False).logits[:, -1]
    errors = []
    for seed in ROUNDINGS:
        with hooked(network, [(Point("input"), partial(rounded, seed=seed))]):
            other = model.hf_model(tokens, use_cache=False).logits[:, -1]
        errors.append(relative_error(precise(other), precise(plain)))
    return max(noise(model.dtype), SPREAD * max(errors))


@torch.no_grad()
def _split_checks(model: Model) -> Iterator[Check]:
    """Heads are separate, nodes add up to the stream, and direct effects to the logits."""
    network, tokens = model.network, probe_tokens(model.hf_model)
    model.limit = limit = _limit(model)
    batch = Batch(tokens, torch.full((PROMPTS,), TOKENS - 1, device=tokens.device))
    run = model.run(batch)
    own = precise(model.hf_model(tokens, use_cache=False).logits[:, -1])
    yield Check("model", "the logits from the last stream", relative_error(run.logits, own), limit)
    written, biases = batch.at_end(run.writers.sum(0)), model.output_biases
    total = written + biases
    yield Check("model", "the summed outputs of heads and MLPs", relative_error(total, run.final),
                limit)  # fmt: skip
    norm, scale = network.norm, network.norm.inverse_scale(run.final)
    shares = sum(norm.share(batch.at_end(one), scale) for one in run.writers)
    direct = (shares + norm.share(total - written, scale)) @ model.unembedding
    direct = direct if norm.bias is None else direct + norm.bias @ model.unembedding
    bias = network.unembedding_bias
    direct = direct if bias is None else direct + bias
    if network.soft_cap is not None:
        direct = capped(direct, network.soft_cap)
    yield Check("model", "the summed direct effects", relative_error(direct, own), limit)
    calls = watch(model.hf_model, [block.module for block in network.blocks])
    yield Check("model", LEAK, leak_between_heads(network, calls), limit)
    yield Check("model", MISPLACED, misplaced_ports(network, calls), limit)
    yield Check("model", BYPASS, bypass_of_ports(network, calls), limit)


def no_tokenizer(where: str) -> UserError:
    """The error to raise for a model without a readable tokenizer."""
    return UserError(
        f"{where} has no tokenizer that can be read; put the model's tokenizer files beside its "
        "weights (tokenizer.json, tokenizer_config.json)."
    )


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + _more(len(names) - most)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def _shape(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))
