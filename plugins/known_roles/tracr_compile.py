"""RASP programs compiled by Tracr (Lindner et al. 2023): their wiring, and their models.

Needs the extra `tracr`. Tracr's models have no LayerNorm; the GPT-2 models built here have one that
changes nothing.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from acdc_explain.errors import UserError
from acdc_explain.records.circuit import INPUT, LOGITS, Edge, Node
from acdc_explain.records.graph import prune

from .gpt2_form import blank_gpt2, mean_zero_basis, saved, word_tokenizer
from .rasp_programs import BY_NAME, LENGTH, LETTERS, Program

SHARP = 10.0  # logits for an output of 1


@cache
def compiled(name: str) -> Any:
    """Tracr's model of a program. Raises UserError if the extra `tracr` is not installed."""
    try:
        from tracr.compiler import compiling
    except ImportError as error:
        raise UserError("Tracr is not installed; pip install 'acdc-explain[tracr]'.") from error
    program = BY_NAME[name]
    return compiling.compile_rasp_to_model(
        program.write(), vocab=set(program.letters), max_seq_len=LENGTH, compiler_bos="BOS",
        causal=True,
    )  # fmt: skip


def wiring(name: str) -> list[Edge]:
    """The edges of the compiled program: the sender writes to a dimension that the receiver reads.

    They are read from Tracr's own matrices, not from the GPT-2 model.
    """
    import numpy as np

    assembled = compiled(name)
    params, config = assembled.params, assembled.model_config
    size = config.key_size
    embeddings = [params[name]["embeddings"] for name in ("token_embed", "pos_embed")]
    writers: list[tuple[Node, Any]] = [(INPUT, np.abs(np.concatenate(embeddings)).sum(0) > 0)]
    edges: list[Edge] = []

    def add_edges(receiver: Node, port: Any, read: Any) -> None:
        edges.extend(
            Edge(sender, receiver, port) for sender, written in writers if (written & read).any()
        )

    for layer in range(config.num_layers):
        block, heads = f"transformer/layer_{layer}", []
        for head in range(config.num_heads):
            node, columns = Node("head", layer, head), slice(head * size, (head + 1) * size)
            for port, part in (("q", "query"), ("k", "key"), ("v", "value")):
                weights = params[f"{block}/attn/{part}"]["w"][:, columns]
                add_edges(node, port, np.abs(weights).sum(1) > 0)
            heads.append((node, np.abs(params[f"{block}/attn/linear"]["w"][columns]).sum(0) > 0))
        writers += heads
        mlp = Node("mlp", layer)
        add_edges(mlp, None, np.abs(params[f"{block}/mlp/linear_1"]["w"]).sum(1) > 0)
        writers.append((mlp, np.abs(params[f"{block}/mlp/linear_2"]["w"]).sum(0) > 0))
    add_edges(LOGITS, None, np.isin(assembled.residual_labels, list(_output_labels(name))))
    return prune(edges)


def _output_labels(name: str) -> dict[str, str]:
    """The residual dimensions that hold the result, with the token that each stands for."""
    variable = {"histogram": "hist"}.get(name, name)
    label = re.compile(rf"{variable}_\d+:(.*)")
    matches = [label.fullmatch(dimension) for dimension in compiled(name).residual_labels]
    return {match[0]: match[1] for match in matches if match}


def vocabulary(program: Program) -> tuple[str, ...]:
    """The tokens of the program's model, in the order of their ids."""
    return ("<bos>", "<unk>", *dict.fromkeys((*LETTERS, *program.outputs)))


def build(name: str) -> Any:
    """The compiled model in GPT-2's form."""
    import torch

    program, assembled = BY_NAME[name], compiled(name)
    config, words = assembled.model_config, vocabulary(program)
    n, dimensions = config.num_heads, len(assembled.residual_labels)
    d_head = max(config.key_size, -(-(dimensions + 1) // n))
    basis = mean_zero_basis(dimensions, d_head * n, 0)

    def tensor(part: str, kind: str = "w") -> torch.Tensor:
        return torch.tensor(assembled.params[part][kind], dtype=torch.float64)

    model = blank_gpt2(
        vocab_size=len(words), n_positions=LENGTH + 1, n_embd=d_head * n,
        n_layer=config.num_layers, n_head=n, n_inner=config.mlp_hidden_size,
        activation_function="relu",
    )  # fmt: skip
    with torch.no_grad():
        token_ids = assembled.input_encoder.encoding_map
        embedding = tensor("token_embed", "embeddings") @ basis
        for number, word in enumerate(words):
            row = token_ids.get("BOS" if word == "<bos>" else word)
            if row is not None:
                model.transformer.wte.weight[number] = embedding[row]
        model.transformer.wpe.weight.copy_(tensor("pos_embed", "embeddings") @ basis)
        for label, token in _output_labels(name).items():
            if token in words:
                direction = basis[assembled.residual_labels.index(label)]
                model.lm_head.weight[words.index(token)] = SHARP * direction
        for layer, block in enumerate(model.transformer.h):
            part = f"transformer/layer_{layer}"
            sharper = (d_head / config.key_size) ** 0.5  # GPT-2 divides by the root of d_head
            query, key, value = (
                _padded(basis.T @ tensor(f"{part}/attn/{port}"), n, d_head)
                for port in ("query", "key", "value")
            )
            block.attn.c_attn.weight.copy_(torch.cat([sharper * query, key, value], 1))
            written = _padded((tensor(f"{part}/attn/linear") @ basis).T, n, d_head)
            block.attn.c_proj.weight.copy_(written.T)
            block.mlp.c_fc.weight.copy_(basis.T @ tensor(f"{part}/mlp/linear_1"))
            block.mlp.c_fc.bias.copy_(tensor(f"{part}/mlp/linear_1", "b"))
            block.mlp.c_proj.weight.copy_(tensor(f"{part}/mlp/linear_2") @ basis)
    return model


def _padded(columns: Any, heads: int, d_head: int) -> Any:
    """Each head's columns, with zeros up to the size of a head."""
    import torch

    split = columns.view(len(columns), heads, -1)
    padded = torch.zeros(len(columns), heads, d_head, dtype=columns.dtype)
    padded[..., : split.shape[-1]] = split
    return padded.flatten(1)


def folder(name: str) -> Path:
    """A RASP program that Tracr compiled to a transformer (extra `tracr`)."""
    return saved(build(name), word_tokenizer(vocabulary(BY_NAME[name]), r"\w"))
