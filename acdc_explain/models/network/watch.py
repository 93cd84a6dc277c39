"""One small forward pass of a model, in which every module's input and output is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import first_line
from .norm import UnsupportedModel

PROMPTS, TOKENS = 2, 7


@dataclass(frozen=True)
class Call:
    """What a module read and wrote. Attention layers also give their weights."""

    input: Tensor
    output: Tensor
    weights: Tensor | None
    arguments: Mapping[str, Any]


def probe_tokens(hf_model: Any) -> Tensor:
    """Random tokens, the same for every model of a vocabulary's size."""
    embedding = hf_model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, len(embedding), (PROMPTS, TOKENS), generator=generator)
    return tokens.to(embedding.device)


def plain_logits(hf_model: Any, tokens: Tensor) -> Tensor:
    """The model's own logits at the last token. Raises UnsupportedModel if it cannot be run."""
    try:
        logits: Tensor = hf_model(tokens, use_cache=False).logits[:, -1]
        return logits
    except Exception as error:  # models raise anything
        reason = first_line(error, 200)
        raise UnsupportedModel(f"it cannot be run on plain tokens ({reason})") from error


def watch(hf_model: Any, blocks: Sequence[Any]) -> list[dict[Any, Call]]:
    """What the modules of each block read and wrote on random tokens.

    Raises:
        UnsupportedModel: A block is not run as one module.
    """
    seen: list[dict[Any, Call]] = [{} for _ in blocks]
    handles = []
    for calls, block in zip(seen, blocks):
        for module in block.modules():
            handles.append(module.register_forward_hook(_keeper(calls), with_kwargs=True))
    try:
        hf_model.base_model(probe_tokens(hf_model), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for number, (calls, block) in enumerate(zip(seen, blocks)):
        if block not in calls:
            raise UnsupportedModel(f"its layer {number} is not run as one module")
    return seen


def _keeper(calls: dict[Any, Call]) -> Any:
    def keep(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        inputs = [kwargs["hidden_states"]] if "hidden_states" in kwargs else inputs
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        if not inputs or not isinstance(outputs[0], Tensor):
            return
        weights = outputs[1] if len(outputs) > 1 and isinstance(outputs[1], Tensor) else None
        square = weights is not None and weights.ndim == 4 and weights.shape[-1] == TOKENS
        calls[module] = Call(
            inputs[0].detach().clone(), outputs[0].detach().clone(),
            weights.detach().clone() if square and weights is not None else None,
            {key: value for key, value in kwargs.items() if key != "hidden_states"},
        )  # fmt: skip

    return keep
