"""Is what was read the whole model, and one that can do anything? Asked of every checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

NO_WEIGHTS = re.compile(r"\.(masked_bias|inv_freq)$|\.(attn|attention)\.bias$")
"""Masks and tables that checkpoints of earlier years hold; models make them anew."""

NO_WEIGHTS_IN_GGUF = re.compile(r"^rope_(freqs|factors_\w+)\.weight$")
LAYER = re.compile(r"^.*?\.\d+(?=\.)")


@contextmanager
def no_pickles() -> Iterator[list[str]]:
    """While a model is read, torch.load is refused, whatever file an index points to.

    Yields the files that would have been unpickled.
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


def check_weights(where: str, hf_model: Any, told: Mapping[str, Any]) -> None:
    """Every weight of the model was in the checkpoint, with its shape, and no other was.

    `told`: what from_pretrained says of its loading. Raises UserError.
    """
    if missing := sorted(told["missing_keys"]):
        raise UserError(
            f"{where} lacks {_some(missing)}, which a {type(hf_model).__name__} has; random "
            "numbers would stand there, so use a complete checkpoint."
        )
    if wrong := sorted(told["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise UserError(
            f"{where} does not fit its configuration: {name} is {_shape(found)} and should be "
            f"{_shape(expected)}{_more(len(wrong) - 1)}; use the config.json of these weights."
        )
    check_unexpected(where, hf_model, told["unexpected_keys"])
    if told.get("error_msgs"):
        raise UserError(f"{where} cannot be read as a model: {told['error_msgs'][0]}")


def check_unexpected(where: str, hf_model: Any, names: Iterable[str]) -> None:
    """Weights that the architecture has no place for would be lost in silence."""
    if lost := sorted(name for name in names if not NO_WEIGHTS.search(name)):
        raise UserError(
            f"{where} holds {_some(lost)}, for which a {type(hf_model).__name__} has no place, so "
            "the model would not be the one that was saved; use the config.json of these weights."
        )


def check_gguf(where: str, file: Path, hf_model: Any) -> None:
    """The same for a GGUF file, whose unknown tensors are passed over when it is read."""
    from gguf import GGUFReader
    from transformers import modeling_gguf_pytorch_utils as reading

    kind = reading.TENSOR_PROCESSORS.get(hf_model.config.model_type, reading.TensorProcessor)
    known = reading.get_gguf_hf_weights_map(hf_model, kind(config=hf_model.config.to_dict()))
    names = {str(tensor.name) for tensor in GGUFReader(file).tensors}
    lost = {n for n in names if n not in known and not NO_WEIGHTS_IN_GGUF.match(n)}
    check_unexpected(where, hf_model, lost - {"output.weight"})


def check_numbers(where: str, hf_model: Any) -> None:
    """No weight is NaN or infinite, and no part that everything goes through is all zeros."""
    layers: dict[str, bool] = {}  # whether any matrix of a layer has a number in it
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
    zero += [f"every matrix of {layer}" for layer, alive in layers.items() if not alive]
    if zero:
        raise UserError(
            f"{where}: {zero[0]} is all zeros, so the model does nothing with a prompt."
        )


def check_tokenizer(where: str, hf_model: Any, tokenizer: Any) -> None:
    """There is one, and the model has a row for each of its tokens."""
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


def no_tokenizer(where: str) -> UserError:
    return UserError(
        f"{where} has no tokenizer that can be read; put the files of the model's own beside its "
        "weights (tokenizer.json, tokenizer_config.json)."
    )


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + _more(len(names) - most)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def _shape(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))
