"""An independent transformer with edges that can be cut, and a brute-force ACDC over it.

Written from the papers and the weights alone: no hooks, no TransformerLens, nothing of
acdc_explain but the names of nodes. Every node's output is computed from what it reads, one by one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Oracle:
    """A Hugging Face model of one of the families, as named functions of the residual stream."""

    def __init__(self, hf_model: Any, family: str) -> None:
        self.model = hf_model
        self.family = family
        cfg = hf_model.config
        self.n_layers, self.n_heads = cfg.num_hidden_layers, cfg.num_attention_heads
        self.d_head = cfg.hidden_size // self.n_heads
        self.parallel = family == "neox_parallel"

    # --- the parts of each family -------------------------------------------------------------

    def blocks(self) -> Any:
        model = self.model
        return {
            "gpt2": lambda: model.transformer.h,
            "llama": lambda: model.model.layers,
        }.get(self.family, lambda: model.gpt_neox.layers)()

    def embed(self, tokens: Tensor) -> Tensor:
        if self.family == "gpt2":
            wte, wpe = self.model.transformer.wte.weight, self.model.transformer.wpe.weight
            return wte[tokens] + wpe[: tokens.shape[1]]
        return self.model.get_input_embeddings().weight[tokens]

    def norm(self, which: Any, x: Tensor) -> Tensor:
        if self.family == "llama":
            scale = x.pow(2).mean(-1, keepdim=True) + self.model.config.rms_norm_eps
            return which.weight * x / scale.sqrt()
        return F.layer_norm(x, x.shape[-1:], which.weight, which.bias, which.eps)

    def norm1(self, layer: int, x: Tensor) -> Tensor:
        block = self.blocks()[layer]
        return self.norm(block.ln_1 if self.family == "gpt2" else block.input_layernorm, x)

    def norm2(self, layer: int, x: Tensor) -> Tensor:
        block = self.blocks()[layer]
        which = block.ln_2 if self.family == "gpt2" else block.post_attention_layernorm
        return self.norm(which, x)

    def project(self, layer: int, head: int, port: str, x: Tensor) -> Tensor:
        """One head's query, key or value."""
        block, d = self.blocks()[layer], self.d_head
        if self.family == "gpt2":
            start = "qkv".index(port) * self.n_heads * d + head * d
            attn = block.attn.c_attn
            return x @ attn.weight[:, start : start + d] + attn.bias[start : start + d]
        if self.family == "llama":
            attn = block.self_attn
            shared = self.n_heads // self.model.config.num_key_value_heads
            row = (head if port == "q" else head // shared) * d
            return x @ getattr(attn, f"{port}_proj").weight[row : row + d].T
        attn = block.attention.query_key_value
        start = head * 3 * d + "qkv".index(port) * d
        return x @ attn.weight[start : start + d].T + attn.bias[start : start + d]

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions, in the half-split form."""
        if self.family == "gpt2":
            return x
        rope = self.model.config.rope_parameters
        n = int(self.d_head * rope.get("partial_rotary_factor", 1.0))
        frequency = rope["rope_theta"] ** -(torch.arange(0, n, 2).double() / n)
        angle = torch.arange(x.shape[1]).double()[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def head(self, layer: int, head: int, reads: dict[str, Tensor]) -> Tensor:
        """What a head writes, given what its three ports read."""
        q, k, v = (
            self.project(layer, head, port, self.norm1(layer, reads[port])) for port in "qkv"
        )
        scores = self.rotate(q) @ self.rotate(k).transpose(1, 2) / math.sqrt(self.d_head)
        length = scores.shape[-1]
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        z = scores.masked_fill(mask, -torch.inf).softmax(-1) @ v
        block, columns = self.blocks()[layer], slice(head * self.d_head, (head + 1) * self.d_head)
        if self.family == "gpt2":
            return z @ block.attn.c_proj.weight[columns]
        dense = block.self_attn.o_proj if self.family == "llama" else block.attention.dense
        return z @ dense.weight[:, columns].T

    def attention_bias(self, layer: int) -> Tensor | float:
        block = self.blocks()[layer]
        if self.family == "gpt2":
            return block.attn.c_proj.bias
        return 0.0 if self.family == "llama" else block.attention.dense.bias

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        mlp, x = self.blocks()[layer].mlp, self.norm2(layer, x)
        if self.family == "gpt2":
            inner = F.gelu(x @ mlp.c_fc.weight + mlp.c_fc.bias, approximate="tanh")
            return inner @ mlp.c_proj.weight + mlp.c_proj.bias
        if self.family == "llama":
            return mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
        return mlp.dense_4h_to_h(F.gelu(mlp.dense_h_to_4h(x)))

    def unembed(self, x: Tensor) -> Tensor:
        if self.family == "gpt2":
            final = self.model.transformer.ln_f
        else:
            final = (
                self.model.model.norm
                if self.family == "llama"
                else self.model.gpt_neox.final_layer_norm
            )
        return self.norm(final, x) @ self.model.get_output_embeddings().weight.T

    # --- the graph -----------------------------------------------------------------------------

    def senders(self, receiver: str) -> list[str]:
        """Names of the nodes a receiver reads, in the order of the forward pass."""
        senders = ["input"]
        for layer in range(self.n_layers):
            heads = [f"a{layer}.h{head}" for head in range(self.n_heads)]
            if receiver in heads:
                return senders
            if receiver == f"m{layer}" and self.parallel:
                return senders
            senders += heads
            if receiver == f"m{layer}":
                return senders
            senders.append(f"m{layer}")
        return senders

    def run(
        self, tokens: Tensor, cut: set[str], corrupt: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits at every position and what each node wrote; a cut edge carries `corrupt`."""
        wrote: dict[str, Tensor] = {"input": self.embed(tokens)}

        def read(receiver: str, port: str = "") -> Tensor:
            total: Any = 0.0
            for sender in self.senders(receiver):
                edge = f"{sender}->{receiver}" + (f"<{port}>" if port else "")
                total = total + (corrupt if edge in cut else wrote)[sender]
            biases = [
                self.attention_bias(layer)
                for layer in range(self.n_layers)
                if f"a{layer}.h0" in self.senders(receiver)
            ]
            return total + sum(biases)

        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                name = f"a{layer}.h{head}"
                wrote[name] = self.head(layer, head, {port: read(name, port) for port in "qkv"})
            wrote[f"m{layer}"] = self.mlp(layer, read(f"m{layer}"))
        return self.unembed(read("logits")), wrote


def brute_force_acdc(
    oracle: Oracle, clean: Tensor, corrupt: Tensor, metric: Any, tau: float
) -> tuple[list[str], float]:
    """ACDC as in the paper, a whole forward pass per edge. `metric` is lower if the model is worse.

    Returns the kept edges in the order of the decisions, and the final metric.
    """
    _, corrupted = oracle.run(corrupt, set(), {})
    cut: set[str] = set()

    def measure() -> float:
        return float(metric(oracle.run(clean, cut, corrupted)[0]))

    current = measure()
    kept: list[str] = []
    receivers = [("logits", "")]
    for layer in reversed(range(oracle.n_layers)):
        receivers.append((f"m{layer}", ""))
        for head in reversed(range(oracle.n_heads)):
            receivers += [(f"a{layer}.h{head}", port) for port in "qkv"]
    for receiver, port in receivers:
        used = receiver == "logits" or any(edge.startswith(f"{receiver}->") for edge in kept)
        for sender in reversed(oracle.senders(receiver)):
            edge = f"{sender}->{receiver}" + (f"<{port}>" if port else "")
            cut.add(edge)
            if not used:
                continue
            without = measure()
            if current - without < tau:
                current = without
            else:
                cut.remove(edge)
                kept.append(edge)
    return kept, current
