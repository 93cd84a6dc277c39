"""What TransformerBridge calls the parts of a Hugging Face model, and where it finds them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from ...errors import first_line
from ...records.circuit import PORTS, Port
from .norm import UnsupportedModel

_NEEDED = {
    "blocks": "layers that are run once, one after the other,",
    "ln_final": "norm between the last layer and the logits",
    "unembed": "map to the logits",
}
"""The parts that every model must have, in words."""

_UNNAMED_MLPS = {"GraniteMoeHybridForCausalLM": "shared_mlp"}
"""MLPs that the bridge does not name."""


@dataclass(frozen=True)
class Names:
    """Paths of modules: of the model, within a block, and within its attention and MLP."""

    blocks: str
    final_norm: str
    unembedding: str
    attention: str
    ports: dict[Port, str] | None  # the modules of queries, keys and values
    fused: str | None  # queries, keys and values from one module, where `ports` is None
    out: str
    mlp: str | None  # None where its maps are modules of the block itself
    has_mlp: bool
    mlp_maps: dict[str, str]
    context_length: int

    @staticmethod
    def of(hf_model: Any) -> Names:
        """The names of a model's parts. Raises UnsupportedModel."""
        kind = type(hf_model).__name__
        if kind == "FalconForCausalLM" and hf_model.config.alibi:
            raise UnsupportedModel(
                "transformers adds its biases by distance (ALiBi) twice in eager attention, the "
                "one that shows attention weights, so its logits there are not the model's"
            )
        mapping, config = _component_mapping(hf_model, kind)
        for part, words in _NEEDED.items():
            if part not in mapping:
                raise UnsupportedModel(f"TransformerBridge names no {words} in a {kind}")
        blocks = mapping["blocks"]
        attention, mlp = (blocks.submodules.get(part) for part in ("attn", "mlp"))
        if attention is None:
            raise UnsupportedModel("not every layer of it has attention heads of its own")
        maps = {port: part.name for port, part in attention.submodules.items()}
        _check_attention(maps)
        fused = maps.get("qkv")
        return Names(
            blocks.name,
            mapping["ln_final"].name,
            mapping["unembed"].name,
            attention.name,
            None if fused else {port: maps[port] for port in PORTS},
            fused,
            maps["o"],
            _UNNAMED_MLPS.get(kind) if mlp is None else mlp.name,
            mlp is not None or kind in _UNNAMED_MLPS,
            {} if mlp is None else {k: part.name for k, part in mlp.submodules.items()},
            int(config.n_ctx),
        )


def _check_attention(maps: Mapping[str, str]) -> None:
    """Raise UnsupportedModel unless every head has its own queries, keys and values."""
    if any(name.startswith(("kv_a", "q_a", "kv_b")) for name in maps):
        raise UnsupportedModel(
            "its heads take queries, keys or values from a compressed vector that all of them "
            "share (as in multi-head latent attention), so they have no ports of their own"
        )
    if ("qkv" not in maps and not {"q", "k", "v"} <= set(maps)) or "o" not in maps:
        raise UnsupportedModel(
            "TransformerBridge names no queries, keys, values and output of its attention heads"
        )


def _component_mapping(hf_model: Any, kind: str) -> tuple[Mapping[str, Any], Any]:
    """The bridge's parts of a model and its configuration. Raises UnsupportedModel."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    if kind not in SUPPORTED_ARCHITECTURES:
        raise UnsupportedModel(f"TransformerBridge does not know a {kind}")
    try:
        config = build_bridge_config_from_hf(hf_model.config, kind, "subject", torch.float32)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
        return adapter.get_component_mapping(), config
    except Exception as error:  # the bridge has no error class of its own
        reason = first_line(error, 200)
        raise UnsupportedModel(f"TransformerBridge cannot read a {kind} ({reason})") from error


def short_prompt(config: Any) -> int | None:
    """The most tokens of a prompt for which a model has the rotary positions of short prompts.

    None if they are the same for all lengths. Padding would turn a short prompt into a long one.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    trained = rope.get("original_max_position_embeddings")
    trained = trained or getattr(config, "original_max_position_embeddings", None)
    return int(trained or config.max_position_embeddings)


def part_of(module: Any, path: str) -> Any:
    """The part of a module at a dotted path. Raises UnsupportedModel if there is none."""
    part = find_part(module, path)
    if part is None:
        raise UnsupportedModel(f"its {type(module).__name__} has no {path}")
    return part


def find_part(module: Any, path: str) -> Any:
    """The part of a module at a dotted path; None if there is none."""
    return reduce(lambda whole, name: getattr(whole, name, None), path.split("."), module)


def bridge_of(hf_model: Any, tokenizer: Any) -> Any:
    """A TransformerBridge around a copy of a model that shares its weights."""
    from transformer_lens.model_bridge import TransformerBridge

    shared = {id(tensor): tensor for tensor in (*hf_model.parameters(), *hf_model.buffers())}
    return TransformerBridge.boot_transformers(
        "acdc-explain/subject", hf_model=copy.deepcopy(hf_model, shared), tokenizer=tokenizer,
        device=next(hf_model.parameters()).device, trust_remote_code=False,
    )  # fmt: skip
