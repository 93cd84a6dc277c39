"""Checks of every checkpoint: the model is complete, not degenerate, and can be split exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .activations import TOLERANCE, relative_error
from .model import Model

NO_WEIGHTS = re.compile(r"\.(masked_bias|inv_freq)$|\.(attn|attention)\.bias$")
"""Masks and tables in old checkpoints that models now compute themselves."""

NO_WEIGHTS_IN_GGUF = re.compile(r"^rope_(freqs|factors_\w+)\.weight$")
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


@torch.no_grad()
def check_split(model: Model) -> None:
    """Raise UserError unless the outputs of all nodes add up to the residual stream.

    Otherwise cutting an edge would not remove exactly what its sender contributes.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, model.cfg.d_vocab, (2, 6), generator=generator).tolist()
    batch = model.batch_ids(rows)
    try:
        run = model.run(batch)
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{model.name}: {model.cfg.architecture} cannot be split into heads and MLPs here "
            f"({error}); GPT-2, GPT-NeoX and Llama-like models can."
        ) from error
    total = batch.at_end(run.writers.sum(0)) + model.output_biases
    error_size = relative_error(total, run.final)
    if error_size > TOLERANCE:
        raise UserError(
            f"{model.name}: the outputs of heads and MLPs of {model.cfg.architecture} do not add "
            f"up to its residual stream (relative error {error_size:.1g}), so no edge can be "
            "cut exactly; GPT-2, GPT-NeoX and Llama-like models work."
        )


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
