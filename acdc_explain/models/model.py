"""A transformer behind TransformerBridge, read and written node by node."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError
from ..records.circuit import Node
from ..records.graph import Graph

Hook = tuple[str, Callable[..., Any]]
TOLERANCE = 1e-4  # relative error at which the split into components counts as exact (float32)


@dataclass(frozen=True)
class Batch:
    """Prompts of several lengths, padded on the right (causal attention never sees the padding)."""

    tokens: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch"]  # index of each prompt's last token

    @property
    def rows(self) -> Int[Tensor, "batch"]:
        return torch.arange(len(self.end), device=self.end.device)

    def at_end(self, values: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """`values` at each prompt's last token."""
        return values[self.rows, self.end]


@dataclass(frozen=True)
class Activations:
    """What one forward pass left behind."""

    writers: Float[Tensor, "writer batch pos d_model"]
    patterns: Float[Tensor, "layer batch head query key"]
    final: Float[Tensor, "batch d_model"]  # residual stream at the last token, before the norm
    logits: Float[Tensor, "batch vocab"]  # at the last token


class _Read(Exception):
    """Thrown to leave a forward pass with what a layer was given."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream


class Model:
    """A transformer whose residual stream is read and written node by node."""

    def __init__(
        self, name: str, bridge: Any, tokenizer: Any, *, digest: str, n_parameters: int
    ) -> None:
        self.name = name
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.id = f"{name}@{digest}"
        self.n_parameters = n_parameters
        self._split(True)
        self._check_split()

    # --- shape ---------------------------------------------------------------------------------

    @property
    def cfg(self) -> Any:
        return self.bridge.cfg

    @cached_property
    def graph(self) -> Graph:
        cfg = self.cfg
        return Graph(cfg.n_layers, cfg.n_heads, not cfg.attn_only, bool(cfg.parallel_attn_mlp))

    @property
    def device(self) -> torch.device:
        return next(self.bridge.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are in (`cfg.dtype` may say otherwise)."""
        return next(self.bridge.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        return self.bridge.W_U.detach()  # type: ignore[no-any-return]

    # --- tokens --------------------------------------------------------------------------------

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The special tokens the model's own tokenizer puts before a text (BOS, or none)."""
        text = next(filter(self.token_ids, self._texts()), " a")
        bare, full = self.token_ids(text), self.tokenizer(text).input_ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start])
        return ()

    def _texts(self) -> Iterator[str]:
        """Some text: for a vocabulary without the letter a, its own tokens."""
        yield " a"
        special = set(self.tokenizer.all_special_ids)
        yield from (self.piece(i) for i in range(len(self.tokenizer)) if i not in special)

    @property
    def unknown(self) -> str | None:
        """The piece that stands for words outside the vocabulary."""
        return self.tokenizer.unk_token  # type: ignore[no-any-return]

    def token_ids(self, text: str) -> list[int]:
        """The ids of the prompt's own tokens, without the prefix."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def pieces(self, text: str) -> list[str]:
        """The prompt's own tokens as text, without the prefix."""
        return [self.piece(token_id) for token_id in self.token_ids(text)]

    def piece(self, token_id: int) -> str:
        """The text of one token. Raises IndexError outside the vocabulary."""
        if not 0 <= token_id < len(self.tokenizer):
            raise IndexError(token_id)
        text: str = self.tokenizer.decode([token_id])
        return text

    def single(self, word: str) -> int:
        """The id of a word that is one token. Raises UserError otherwise."""
        ids = self.token_ids(word)
        if len(ids) != 1:
            raise UserError(f"{word!r} is {len(ids)} tokens of {self.name}, not one.")
        return ids[0]

    def batch(self, texts: Sequence[str]) -> Batch:
        """Prompts as the model sees them: prefix, tokens, padding on the right."""
        return self.batch_ids([self.token_ids(text) for text in texts])

    def batch_ids(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Token ids as the model sees them: prefix, tokens, padding on the right."""
        full = [[*self.prefix, *row] for row in rows]
        longest = max(map(len, full))
        if longest > self.cfg.n_ctx:
            raise UserError(
                f"A prompt has {longest} tokens and {self.name} reads at most {self.cfg.n_ctx}; "
                "use shorter prompts."
            )
        tokens = torch.zeros(len(full), longest, dtype=torch.long, device=self.device)
        for index, row in enumerate(full):
            tokens[index, : len(row)] = torch.tensor(row)
        end = torch.tensor([len(row) - 1 for row in full], device=self.device)
        return Batch(tokens, end)

    # --- hook names ----------------------------------------------------------------------------

    @cached_property
    def _has_positions(self) -> bool:
        return "hook_pos_embed" in self.bridge.hook_dict

    def port_hook(self, layer: int, port: str | None) -> str:
        """Where a head's q, k or v port (`port`) or the MLP (None) of a layer reads the stream."""
        return f"blocks.{layer}.attn.hook_{port}_input" if port else f"blocks.{layer}.hook_mlp_in"

    @cached_property
    def final_hook(self) -> str:
        """The residual stream that the final norm reads."""
        return f"blocks.{self.graph.n_layers - 1}.hook_resid_post"

    def writer_hooks(self, record: Callable[[slice, Tensor], Any]) -> list[Hook]:
        """Hooks that call `record(indices of writers, output [writer batch pos d_model])`.

        `record` may return a replacement of the same shape, or None.
        """
        graph, width = self.graph, self.graph.n_heads + self.graph.has_mlps

        def heads(layer: int) -> Callable[..., Tensor | None]:
            start = 1 + layer * width

            def hook(value: Tensor, hook: Any) -> Tensor | None:
                new = record(slice(start, start + graph.n_heads), value.permute(2, 0, 1, 3))
                return None if new is None else new.permute(1, 2, 0, 3)

            return hook

        def single(index: int) -> Callable[..., Tensor | None]:
            def hook(value: Tensor, hook: Any) -> Tensor | None:
                new = record(slice(index, index + 1), value[None])
                return None if new is None else new[0]

            return hook

        hooks: list[Hook] = [("hook_embed", single(0))]
        if self._has_positions:
            hooks.append(("hook_pos_embed", single(0)))
        for layer in range(graph.n_layers):
            hooks.append((f"blocks.{layer}.attn.hook_result", heads(layer)))
            if graph.has_mlps:
                hooks.append((f"blocks.{layer}.hook_mlp_out", single((layer + 1) * width)))
        return hooks

    # --- running -------------------------------------------------------------------------------

    def forward(self, batch: Batch, hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch vocab"]:
        """The logits at each prompt's last token."""
        final: list[Tensor] = []

        def keep_end(value: Tensor, hook: Any) -> None:
            final.append(batch.at_end(value))

        with self.bridge.hooks(fwd_hooks=[*hooks, (self.final_hook, keep_end)]):
            self.bridge(batch.tokens, **self._fewest_logits)
        return self.unembed(final[0])

    @cached_property
    def _fewest_logits(self) -> dict[str, int]:
        """Prompts end at different tokens, so `forward` unembeds them itself."""
        accepted = inspect.signature(self.bridge.original_model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def unembed(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Final norm and unembedding of residual-stream vectors."""
        shape = final.shape
        normed = self.bridge.ln_final(final.reshape(-1, 1, shape[-1]))
        return self.bridge.unembed(normed).reshape(*shape[:-1], -1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def run(self, batch: Batch) -> Activations:
        """One forward pass with everything the nodes wrote."""
        graph = self.graph
        size = (len(graph.writers), *batch.tokens.shape, self.cfg.d_model)
        writers = torch.zeros(size, dtype=self.dtype, device=self.device)
        patterns: list[Tensor] = []
        final: list[Tensor] = []

        def record(indices: slice, value: Tensor) -> None:
            writers[indices] += value  # += because the input is token plus position embedding

        hooks = self.writer_hooks(record)
        hooks += [
            (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: patterns.append(value))
            for layer in range(graph.n_layers)
        ]
        hooks.append((self.final_hook, lambda value, hook: final.append(batch.at_end(value))))
        logits = self.forward(batch, hooks)
        return Activations(writers, torch.stack(patterns), final[0], logits)

    @torch.no_grad()
    def embed(self, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
        """What the first layer reads."""

        def stop(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Read(args[0] if args else kwargs["hidden_states"])

        handle = self.bridge.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.bridge(batch.tokens)
        except _Read as read:
            return read.stream
        finally:
            handle.remove()
        raise AssertionError("the first layer was not run")

    @torch.no_grad()
    def record_blocks(self, batch: Batch) -> Replay:
        """One forward pass after which any suffix of the layers can be run alone."""
        inputs: list[Tensor] = []
        arguments: list[dict[str, Any]] = []

        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs.append(args[0] if args else kwargs["hidden_states"])
            arguments.append({k: v for k, v in kwargs.items() if k != "hidden_states"})

        handles = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in self.bridge.blocks]
        try:
            self.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        return Replay(self, batch, inputs, arguments)

    def forward_seconds(self, batch: Batch, repeats: int = 3) -> float:
        """Median seconds of a plain forward pass, without any hook or split."""
        self._split(False)
        try:
            seconds = [self._timed(batch) for _ in range(repeats)]
        finally:
            self._split(True)
        return round(statistics.median(seconds), 6)

    @torch.no_grad()
    def _timed(self, batch: Batch) -> float:
        started = time.perf_counter()
        self.bridge(batch.tokens)
        return time.perf_counter() - started

    def _split(self, on: bool) -> None:
        for switch in ("set_use_attn_result", "set_use_split_qkv_input", "set_use_hook_mlp_in"):
            getattr(self.bridge, switch)(on)

    @contextmanager
    def ports_together(self) -> Iterator[None]:
        """Heads read the stream together: a third faster, for hooks on what nodes write alone."""
        reading = ("set_use_split_qkv_input", "set_use_hook_mlp_in")
        for switch in reading:
            getattr(self.bridge, switch)(False)
        try:
            yield
        finally:
            for switch in reading:
                getattr(self.bridge, switch)(True)

    @torch.no_grad()
    def patterns(self, batch: Batch) -> Float[Tensor, "layer batch head query key"]:
        """The attention patterns alone: far less memory than `run`."""
        kept: list[Tensor] = []
        hooks: list[Hook] = [
            (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: kept.append(value))
            for layer in range(self.graph.n_layers)
        ]
        self.forward(batch, hooks)
        return torch.stack(kept)

    # --- checks --------------------------------------------------------------------------------

    @torch.no_grad()
    def _check_split(self) -> None:
        """The writers must add up to the residual stream, else cutting edges would mean nothing."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(0, self.cfg.d_vocab, (2, 6), generator=generator).tolist()
        batch = self.batch_ids(rows)
        try:
            run = self.run(batch)
        except (KeyError, RuntimeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.name}: {self.cfg.architecture} cannot be split into heads and MLPs here "
                f"({error}); GPT-2, GPT-NeoX and Llama-like models can."
            ) from error
        total = batch.at_end(run.writers.sum(0)) + self.output_biases
        error_size = relative_error(total, run.final)
        if error_size > TOLERANCE:
            raise UserError(
                f"{self.name}: the outputs of heads and MLPs of {self.cfg.architecture} do not add "
                f"up to its residual stream (relative error {error_size:.1g}), so no edge can be "
                "cut exactly; GPT-2, GPT-NeoX and Llama-like models work."
            )

    @property
    def output_biases(self) -> Tensor | float:
        """The attention output biases, which belong to no head."""
        biases = [getattr(block.attn.o, "bias", None) for block in self.bridge.blocks]
        return sum((bias for bias in biases if bias is not None), start=torch.zeros(()))


@dataclass(frozen=True)
class Replay:
    """The inputs of every layer in one run, to rerun the later layers with hooks."""

    model: Model
    batch: Batch
    inputs: list[Float[Tensor, "batch pos d_model"]]
    arguments: list[dict[str, Any]]  # rotary tables, masks: what a layer takes beside its input

    @torch.no_grad()
    def logits(self, layer: int, hooks: Sequence[Hook]) -> Float[Tensor, "batch vocab"]:
        """Logits at the last token, running from `layer` on; hooks are on what nodes write."""
        stream = self.inputs[layer]
        blocks = list(self.model.bridge.blocks)
        with self.model.ports_together(), self.model.bridge.hooks(fwd_hooks=list(hooks)):
            for block, arguments in zip(blocks[layer:], self.arguments[layer:]):
                output = block(stream, **arguments)
                stream = output[0] if isinstance(output, tuple) else output
        return self.model.unembed(self.batch.at_end(stream))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference, in units of the reference's largest entry."""
    scale = reference.abs().max().clamp_min(1e-30)
    return float((value - reference).abs().max() / scale)


def layer_of(node: Node) -> int:
    assert node.layer is not None
    return node.layer


def head_index(node: Node) -> tuple[int, int]:
    """Layer and head of a head node."""
    assert node.head is not None
    return layer_of(node), node.head
