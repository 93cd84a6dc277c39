"""Find the nodes of a Hugging Face model: names from the bridge, the rest by watching it run.

Which norm stands before or after which part, and whether MLPs read what heads read, is seen in one
forward pass: a norm whose output an attention layer reads is the norm before it, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .hooks import Point, hooked
from .names import Names, find_part, part_of
from .norm import Norm, UnsupportedModel
from .parts import AttentionParts, Block, MlpParts, Network, Projection
from .precision import noise, relative_error
from .shared import columns_of
from .watch import Call, watch


@torch.no_grad()
def find_network(hf_model: Any, names: Names, tokens: Tensor, logits: Tensor) -> Network:
    """The nodes of a model whose heads have keys and values of their own (see `ungroup`).

    `logits`: of `tokens`, at the last, before anything was changed in the model.

    Raises:
        UnsupportedModel: A part is missing, or not of a kind that is known here.
    """
    modules = list(part_of(hf_model, names.blocks))
    calls = watch(hf_model, modules)
    like = calls[0][modules[0]].input[0, 0]
    for number, module in enumerate(modules):
        if find_part(module, names.attention) is None:
            raise UnsupportedModel(f"layer {number} has no attention heads")
    blocks = [_block(module, names, seen, like) for module, seen in zip(modules, calls)]
    for number, ((block, _), seen) in enumerate(zip(blocks, calls)):
        _check_sum(number, block, seen)
    parallel = {is_parallel for _, is_parallel in blocks if is_parallel is not None} or {False}
    if len(parallel) > 1:
        raise UnsupportedModel("in some layers the MLP reads what the heads read, not in others")
    n_heads = {len(block.attention.out_weight) for block, _ in blocks}
    if len(n_heads) > 1:
        raise UnsupportedModel("its layers have different numbers of heads")
    final_norm = part_of(hf_model, names.final_norm)
    network = Network(
        hf_model,
        [block for block, _ in blocks],
        parallel.pop(),
        final_norm,
        Norm.of(final_norm, like),
        part_of(hf_model, names.unembedding),
        1.0,
        None,
        n_heads.pop(),
        names.context_length,
    )
    return _with_logits(network, tokens, logits)


def _with_logits(network: Network, tokens: Tensor, expected: Tensor) -> Network:
    """The network with the scale and the soft cap that give the model's own logits.

    Raises UnsupportedModel if none do.
    """
    config, final = network.hf_model.config, []
    hook = (Point("final"), lambda value: final.append(value[:, -1]))
    with hooked(network, [hook]):
        network.body(tokens, use_cache=False)
    if not final:
        raise UnsupportedModel("its last norm is not what its body ends with")
    # what the configuration names comes first: a cap may be within the noise of half precision
    named = (getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier"))
    scales = [float(scale) for scale in named if isinstance(scale, (int, float))]
    divisor = getattr(config, "logits_scaling", None)
    scales += [1 / float(divisor), 1.0] if divisor else [1.0]
    caps = [getattr(config, "final_logit_softcapping", None), None]
    for scale, cap in product(scales, dict.fromkeys(caps)):
        scaled = replace(network, logit_scale=scale, soft_cap=None if cap is None else float(cap))
        if relative_error(scaled.logits(final[0]), expected) <= noise(expected.dtype):
            return scaled
    raise UnsupportedModel("its logits do not follow from its last stream in any known way")


def _block(
    module: Any, names: Names, seen: Mapping[Any, Call], like: Tensor
) -> tuple[Block, bool | None]:
    """The parts of a layer, and whether its MLP reads what its heads read; None: who knows."""
    attention = _attention(module, names, seen)
    mlp = _mlp(module, names, seen) if names.has_mlp else None
    stream = seen[module].input
    before = stream if attention.norm is None else seen[attention.norm].input
    if not torch.equal(before, stream):
        raise UnsupportedModel("its heads do not read the residual stream through one norm")
    parallel = None
    if mlp is not None and seen[attention.module].output.any():  # else the two streams are equal
        entry = seen[mlp.entry] if mlp.norm is None else seen[mlp.norm]
        parallel = torch.equal(entry.input.flatten(), stream.flatten())
    multiplier = float(getattr(module, "residual_multiplier", 1.0))
    return Block(
        module, attention, mlp, Norm.of(attention.post, like),
        Norm.of(None if mlp is None else mlp.post, like), multiplier,
    ), parallel  # fmt: skip


def _check_sum(number: int, block: Block, seen: Mapping[Any, Call]) -> None:
    """Raise UnsupportedModel unless a layer adds what its heads and its MLP write, and no more."""
    attention, mlp = block.attention, block.mlp
    stream = seen[block.module]
    parts = [attention.out if attention.post is None else attention.post]
    if mlp is not None:
        parts.append(mlp.exit if mlp.post is None else mlp.post)
    written = sum(seen[part].output.view_as(stream.input) for part in parts)
    total = stream.input + written * block.multiplier
    if relative_error(total, stream.output) > noise(total.dtype):
        raise UnsupportedModel(
            f"layer {number} does not just add to the residual stream what its heads "
            f"{'write' if mlp is None else 'and its MLP write'}"
        )


def _attention(block: Any, names: Names, seen: Mapping[Any, Call]) -> AttentionParts:
    module = part_of(block, names.attention)
    if module not in seen or seen[module].weights is None:
        raise UnsupportedModel("its attention layers do not return their attention weights")
    weights = seen[module].weights
    assert weights is not None
    n_heads = weights.shape[1]
    out = part_of(module, names.out)
    return AttentionParts(
        module,
        _before(seen, module),
        _projections(module, names, n_heads),
        out,
        _after(seen, out),
    )


def _projections(module: Any, names: Names, n_heads: int) -> dict[Any, Projection]:
    if names.fused is not None:
        fused = part_of(module, names.fused)
        columns = columns_of(module, fused, n_heads)
        return {port: Projection((fused,), columns[port]) for port in columns}
    projections = {}
    for port, name in (names.ports or {}).items():
        linear = part_of(module, name)
        size = linear.weight.shape[0]
        if size % n_heads:
            raise UnsupportedModel(f"its {name} has {size} outputs for {n_heads} heads")
        numbers = torch.arange(size, device=linear.weight.device).view(n_heads, -1)
        projections[port] = Projection((linear, *_joint_norm(module, port, size)), numbers)
    return projections


def _joint_norm(module: Any, port: str, size: int) -> tuple[Any, ...]:
    """The norm over the queries or keys of all heads together, if there is one (OLMo 2)."""
    norm = getattr(module, f"{port}_norm", None)
    weight = getattr(norm, "weight", None)
    joint = isinstance(weight, Tensor) and weight.shape == (size,)
    return (norm,) if joint else ()


def _mlp(block: Any, names: Names, seen: Mapping[Any, Call]) -> MlpParts:
    if names.mlp is None:  # the maps are modules of the block itself
        entry, out = part_of(block, names.mlp_maps["in"]), part_of(block, names.mlp_maps["out"])
        norm = _before(seen, entry)
        return MlpParts(None, norm, entry, out, _after(seen, out), names.mlp_maps)
    module = part_of(block, names.mlp)
    if module not in seen:
        raise UnsupportedModel(f"its {names.mlp} is not run as one module")
    out = getattr(module, names.mlp_maps.get("out", ""), None)
    plain = out in seen and seen[out].output.numel() == seen[module].output.numel()
    exit = out if plain and "experts" not in names.mlp_maps else module
    norm = _before(seen, module)
    return MlpParts(module, norm, module, exit, _after(seen, exit), names.mlp_maps)


def _before(seen: Mapping[Any, Call], reader: Any) -> Any:
    """The norm whose output is what `reader` reads; None if that is no norm's output."""
    read = seen[reader].input
    calls = list(seen.items())  # in the order in which they ended
    end = next(number for number, (module, _) in enumerate(calls) if module is reader)
    sources = [
        module
        for module, call in calls[:end]
        if "Norm" in type(module).__name__
        if call.output.shape[-1] == read.shape[-1] and call.output.numel() == read.numel()
        if torch.equal(call.output.flatten(), read.flatten())
    ]
    return sources[-1] if sources else None


def _after(seen: Mapping[Any, Call], writer: Any) -> Any:
    """The norm that reads what `writer` writes; None if there is none."""
    written = seen[writer].output
    for module, call in seen.items():
        is_norm = "Norm" in type(module).__name__ and call.input.numel() == written.numel()
        if is_norm and torch.equal(call.input.flatten(), written.flatten()):
            return module
    return None
