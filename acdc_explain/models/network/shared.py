"""Queries, keys and values that come out of one module, and keys that heads share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...records.circuit import Port
from .norm import UnsupportedModel

BY_HEAD = {"GPTNeoXAttention", "BloomAttention", "FalconAttention", "GPTBigCodeAttention"}
"""Attention classes with [head, (q, k, v), d_head]; others have [(q, k, v), head, d_head]."""


def columns_of(attention: Any, fused: Any, n_heads: int) -> dict[Port, Tensor]:
    """The columns [head d_head] of a fused module's output that are queries, keys and values.

    The values are checked against what heads mix, and all three against the fast engine.
    """
    weight = fused.weight
    size = weight.shape[1] if hasattr(fused, "nf") else weight.shape[0]
    kind = type(attention).__name__
    if size % (3 * n_heads):
        raise UnsupportedModel(f"the {size} outputs of its {kind} are no q, k and v of all heads")
    numbers = torch.arange(size, device=weight.device)
    if kind == "CodeGenAttention":  # four blocks, each of queries, values and keys of some heads
        q, v, k = numbers.view(4, 3, n_heads // 4, -1).transpose(0, 1).flatten(1, 2)
    elif kind in BY_HEAD:
        q, k, v = numbers.view(n_heads, 3, -1).transpose(0, 1)
    else:
        q, k, v = numbers.view(3, n_heads, -1)
    return {"q": q, "k": k, "v": v}


def ungroup(hf_model: Any) -> None:
    """Copy the key and value weights that query heads share to each of them, in place.

    The logits stay the same. Every head then has its own k and v port, as edges are usually
    counted.

    Raises:
        UnsupportedModel: Heads share keys in a way that is not known here.
    """
    config = hf_model.config
    for module in hf_model.modules():
        kind = type(module).__name__
        if kind == "FalconAttention":
            _ungroup_falcon(module)
        elif kind == "GPTBigCodeAttention" and module.multi_query:
            _ungroup_bigcode(module)
        elif getattr(module, "num_key_value_groups", 1) not in (None, 1):
            _ungroup_heads(module, module.num_key_value_groups)
    if "num_key_value_heads" in config.to_dict():
        config.num_key_value_heads = config.num_attention_heads


def _ungroup_heads(attention: Any, times: int) -> None:
    """For modules with `q_proj`, `k_proj` and `v_proj`, or with all three in `qkv_proj`."""
    if getattr(attention, "v_proj", attention) is None:
        raise UnsupportedModel("its values are its keys, so that they are no ports of their own")
    if hasattr(attention, "k_proj") and hasattr(attention, "v_proj"):
        d_head = attention.head_dim
        for linear in (attention.k_proj, attention.v_proj):
            _set_rows(linear, _repeated(linear.weight.shape[0], d_head, times))
        norm: Any = getattr(attention, "k_norm", None)
        weight = getattr(norm, "weight", None)
        if weight is not None and weight.ndim == 1 and len(weight) != d_head:  # of all heads
            norm.weight.data = weight.data[_repeated(len(weight), d_head, times)]
        elif weight is not None and weight.ndim == 2:  # one row a head (Cohere)
            norm.weight.data = weight.data.repeat_interleave(times, 0)
        _repeat_norms(attention, times)
    elif hasattr(attention, "qkv_proj"):
        d_head = attention.head_dim
        rows = attention.qkv_proj.weight.shape[0]
        n_queries = rows * times // (times + 2)
        n_keys = n_queries // times
        shared = _repeated(n_keys, d_head, times)
        index = torch.cat(
            [torch.arange(n_queries), n_queries + shared, n_queries + n_keys + shared]
        )
        _set_rows(attention.qkv_proj, index)
    else:
        raise UnsupportedModel(f"its {type(attention).__name__} shares keys in an unknown way")
    for name in ("num_key_value_heads", "num_kv_heads"):
        if isinstance(getattr(attention, name, None), int):
            setattr(attention, name, getattr(attention, name) * times)
    attention.num_key_value_groups = 1


def _repeat_norms(attention: Any, times: int) -> None:
    """Norms that each key head has for itself (StableLM)."""
    norms = getattr(getattr(attention, "k_layernorm", None), "norms", None)
    if norms is not None:
        attention.k_layernorm.norms = torch.nn.ModuleList(n for n in norms for _ in range(times))


def _ungroup_falcon(attention: Any) -> None:
    """To one query, key and value after the other for each head, the layout without sharing."""
    if not attention.new_decoder_architecture and not attention.multi_query:
        return
    d_head, n_heads = attention.head_dim, attention.num_heads
    groups = attention.num_kv_heads
    blocks = torch.arange(attention.query_key_value.weight.shape[0]).view(groups, -1, d_head)
    q = blocks[:, :-2]  # [group, query head, d_head]
    k, v = (blocks[:, [n]].expand(q.shape) for n in (-2, -1))
    index = torch.stack([x.reshape(n_heads, d_head) for x in (q, k, v)], 1).flatten()
    _set_rows(attention.query_key_value, index)
    attention.new_decoder_architecture = attention.multi_query = False
    attention.num_kv_heads = n_heads


def _ungroup_bigcode(attention: Any) -> None:
    d_head, n_heads = attention.head_dim, attention.num_heads
    rows = torch.arange(attention.c_attn.weight.shape[0])
    q = rows[: n_heads * d_head].view(n_heads, d_head)
    k, v = (x.expand(n_heads, -1) for x in rows[n_heads * d_head :].view(2, d_head))
    _set_rows(attention.c_attn, torch.stack([q, k, v], 1).flatten())
    attention.multi_query, attention.num_key_value_groups = False, 1
    attention.kv_heads, attention.kv_dim = n_heads, n_heads * d_head


def _repeated(rows: int, d_head: int, times: int) -> Tensor:
    """The rows of each key head, as often as query heads share it."""
    return torch.arange(rows).view(-1, d_head).repeat_interleave(times, 0).flatten()


def _set_rows(linear: Any, index: Tensor) -> None:
    """Give a linear layer these rows of its weight and bias."""
    linear.weight.data = linear.weight.data[index].contiguous()
    if linear.bias is not None:
        linear.bias.data = linear.bias.data[index]
    linear.out_features = len(index)
