"""A transformer behind TransformerBridge, read and written node by node."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..records.graph import Graph
from .activations import (
    POSITIONS,
    Activations,
    Batch,
    Hook,
    LayerInputs,
    embedding_hooks,
    final_hook,
    layer_hooks,
    pattern_hooks,
)
from .tokens import Tokens

PORT_SWITCHES = ("set_use_split_qkv_input", "set_use_hook_mlp_in")
"""What makes the bridge give every port its own copy of the stream."""
SWITCHES = ("set_use_attn_result", *PORT_SWITCHES)
"""The same, and an output of its own for every head."""


class _StopForward(Exception):
    """Leaves a forward pass with the stream that a layer was about to read."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream


class Model:
    """A transformer whose residual stream is read and written node by node.

    `acdc_explain.load_model` makes one. Texts have no special tokens; `batch` puts `prefix` before
    them. Attributes that plugins use: `name`, `id` (name and hash of the weights), `graph` (its
    nodes and edges), `cfg` (the bridge's configuration), `tokenizer`, `n_parameters`.
    """

    def __init__(
        self, name: str, bridge: Any, tokenizer: Any, *, digest: str, n_parameters: int
    ) -> None:
        self.name = name
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer, name, self.cfg.n_ctx)
        self.id = f"{name}@{digest}"
        self.n_parameters = n_parameters
        self._split(True)

    # --- shape and weights ---------------------------------------------------------------------

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
        """The type of the weights (`cfg.dtype` may say otherwise)."""
        return next(self.bridge.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        return self.bridge.W_U.detach()  # type: ignore[no-any-return]

    @property
    def output_biases(self) -> Tensor | float:
        """The sum of the attention output biases, which belong to no head."""
        biases = [getattr(block.attn.o, "bias", None) for block in self.bridge.blocks]
        return sum((bias for bias in biases if bias is not None), start=torch.zeros(()))

    @torch.no_grad()
    def final_norm_factor(
        self, final: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """What the final norm multiplies a stream by, once the mean is gone: weight over scale."""
        scales: list[Tensor] = []
        hook = ("ln_final.hook_scale", lambda value, hook: scales.append(value))
        with self.bridge.hooks(fwd_hooks=[hook]):
            self.bridge.ln_final(final[:, None])
        weight = getattr(self.bridge.ln_final, "weight", None)
        return (1.0 if weight is None else weight.detach()) / scales[0][:, 0]

    # --- tokens --------------------------------------------------------------------------------

    @property
    def prefix(self) -> tuple[int, ...]:
        """The special tokens the model's own tokenizer puts before a text (BOS, or none)."""
        return self.tokens.prefix

    @property
    def unknown(self) -> str | None:
        """The piece that stands for words outside the vocabulary, if there is one."""
        return self.tokens.unknown

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text's own tokens, without the prefix."""
        return self.tokens.ids(text)

    def pieces(self, text: str) -> list[str]:
        """A text's own tokens as text, without the prefix."""
        return [self.tokens.piece(token_id) for token_id in self.tokens.ids(text)]

    def piece(self, token_id: int) -> str:
        """The text of one token. Raises IndexError outside the vocabulary."""
        return self.tokens.piece(token_id)

    def single(self, word: str) -> int:
        """The id of a word that is one token, with the space before it if it has one.

        Raises:
            UserError: The word is more tokens than one, or none.
        """
        return self.tokens.single(word)

    def batch(self, texts: Sequence[str]) -> Batch:
        """Prompts as the model reads them: prefix, tokens, padding on the right.

        Raises:
            UserError: A prompt is longer than the model's context.
        """
        return self.batch_ids([self.token_ids(text) for text in texts])

    def batch_ids(self, rows: Sequence[Sequence[int]]) -> Batch:
        """The same as `batch` for token ids, without the prefix."""
        return self.tokens.batch(rows, self.device)

    # --- hooks ---------------------------------------------------------------------------------

    def writer_hooks(
        self, record: Callable[[slice, Tensor], Any], *, embedding: bool = True
    ) -> list[Hook]:
        """Hooks that see what every node writes.

        Args:
            record: Called with a slice of `graph.writers` and their output
                [writer batch pos d_model]; may return a replacement of the same shape. The input
                comes twice, once each for token and position embedding, where there are both.
            embedding: Whether the input is among the nodes.
        """
        hooks = layer_hooks(self.graph, record)
        if not embedding:
            return hooks
        positions = POSITIONS in self.bridge.hook_dict
        return [*embedding_hooks(record, positions=positions), *hooks]

    # --- running -------------------------------------------------------------------------------

    def forward(self, batch: Batch, hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch vocab"]:
        """The logits at each prompt's last token, with gradients if they are switched on.

        Args:
            batch: Prompts, as `batch` makes them.
            hooks: Of `writer_hooks` or `activations`; they watch or replace values.
        """
        final: list[Tensor] = []
        hook = final_hook(self.graph, batch, final.append)
        with self.bridge.hooks(fwd_hooks=[*hooks, hook]):
            self.bridge(batch.tokens, **self._fewest_logits)
        return self.unembed(final[0])

    @cached_property
    def _fewest_logits(self) -> dict[str, int]:
        """Prompts end at different tokens, so `forward` unembeds them itself."""
        accepted = inspect.signature(self.bridge.original_model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def unembed(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """The logits of residual streams: final norm and unembedding."""
        shape = final.shape
        normed = self.bridge.ln_final(final.reshape(-1, 1, shape[-1]))
        return self.bridge.unembed(normed).reshape(*shape[:-1], -1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def run(self, batch: Batch) -> Activations:
        """One forward pass that keeps what every node writes."""
        size = (len(self.graph.writers), *batch.tokens.shape, self.cfg.d_model)
        writers = torch.zeros(size, dtype=self.dtype, device=self.device)
        patterns: list[Tensor] = []
        final: list[Tensor] = []

        def record(indices: slice, value: Tensor) -> None:
            writers[indices] += value  # += because the input is token plus position embedding

        hooks = [*self.writer_hooks(record), *pattern_hooks(self.graph, patterns.append)]
        hooks.append(final_hook(self.graph, batch, final.append))
        logits = self.forward(batch, hooks)
        return Activations(writers, torch.stack(patterns), final[0], logits)

    @torch.no_grad()
    def patterns(self, batch: Batch) -> Float[Tensor, "layer batch head query key"]:
        """The attention patterns alone; takes far less memory than `run`."""
        patterns: list[Tensor] = []
        self.forward(batch, pattern_hooks(self.graph, patterns.append))
        return torch.stack(patterns)

    @torch.no_grad()
    def embed(self, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
        """The stream that the first layer reads."""

        def stop(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _StopForward(args[0] if args else kwargs["hidden_states"])

        handle = self.bridge.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.bridge(batch.tokens)
        except _StopForward as stopped:
            return stopped.stream
        finally:
            handle.remove()
        raise AssertionError("the first layer was not run")

    @torch.no_grad()
    def layer_inputs(self, batch: Batch) -> LayerInputs:
        """One forward pass that keeps what `run_from` needs to run the later layers alone."""
        streams: list[Tensor] = []
        arguments: list[dict[str, Any]] = []

        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            streams.append(args[0] if args else kwargs["hidden_states"])
            arguments.append({k: v for k, v in kwargs.items() if k != "hidden_states"})

        handles = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in self.bridge.blocks]
        try:
            self.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        return LayerInputs(batch, streams, arguments)

    @torch.no_grad()
    def run_from(
        self, layer: int, inputs: LayerInputs, hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch vocab"]:
        """The logits at the last token, running from `layer` on; hooks are on what nodes write."""
        stream = inputs.streams[layer]
        blocks = list(self.bridge.blocks)
        with self._shared_ports(), self.bridge.hooks(fwd_hooks=list(hooks)):
            for block, arguments in zip(blocks[layer:], inputs.arguments[layer:]):
                output = block(stream, **arguments)
                stream = output[0] if isinstance(output, tuple) else output
        return self.unembed(inputs.batch.at_end(stream))

    @torch.no_grad()
    def forward_seconds(self, batch: Batch, repeats: int = 3) -> float:
        """Median seconds of a plain forward pass, without any hook or split."""
        seconds = []
        with self.unsplit():
            for _ in range(repeats):
                started = time.perf_counter()
                self.bridge(batch.tokens)
                seconds.append(time.perf_counter() - started)
        return round(statistics.median(seconds), 6)

    # --- the split into nodes ------------------------------------------------------------------

    def _split(self, on: bool, switches: Sequence[str] = SWITCHES) -> None:
        for switch in switches:
            getattr(self.bridge, switch)(on)

    @contextmanager
    def unsplit(self) -> Iterator[None]:
        """The plain model: faster, but heads have no ports and no outputs of their own."""
        self._split(False)
        try:
            yield
        finally:
            self._split(True)

    @contextmanager
    def _shared_ports(self) -> Iterator[None]:
        """Heads read one stream together: a third faster, and hooks on outputs still work."""
        self._split(False, PORT_SWITCHES)
        try:
            yield
        finally:
            self._split(True, PORT_SWITCHES)
