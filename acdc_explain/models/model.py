"""A transformer whose residual stream is read and written node by node."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..records.graph import Graph
from .activations import (
    Activations,
    Batch,
    LayerInputs,
    final_hook,
    pattern_hooks,
    search_bytes,
    writer_hooks,
    written_everywhere,
)
from .network.hooks import Hook, Point, StopForward, hooked
from .network.names import bridge_of, short_prompt
from .network.parts import Network
from .network.patch import patched_logits
from .network.precision import TOLERANCE, Check
from .tokens import Tokens


class Model:
    """A transformer whose residual stream is read and written node by node.

    `acdc_explain.load_model` makes one. Texts have no special tokens; `batch` puts `prefix` before
    them. Attributes that plugins use: `name`, `id` (name and hash of the weights), `graph` (its
    nodes and edges), `tokenizer`, `n_parameters`, `d_model`, `context_length`, and `hf_model`, the
    Hugging Face model itself.
    """

    def __init__(
        self, name: str, network: Network, tokenizer: Any, *, digest: str, n_parameters: int
    ) -> None:
        self.name = name
        self.network = network
        self.tokenizer = tokenizer
        short = short_prompt(network.hf_model.config)
        self.tokens = Tokens(tokenizer, name, network.context_length, short)
        self.id = f"{name}@{digest}"
        self.n_parameters = n_parameters
        self.revision: str | None = None  # of the hub, if `load_model` was asked for one
        self.limit = TOLERANCE  # relative error at which the whole model counts as exact
        self.checks: tuple[Check, ...] = ()  # of its split into nodes, when it was loaded

    # --- shape and weights ---------------------------------------------------------------------

    @property
    def hf_model(self) -> Any:
        """The Hugging Face model, with keys and values copied to every head that shares them."""
        return self.network.hf_model

    @property
    def architecture(self) -> str:
        """The class of the Hugging Face model."""
        return type(self.hf_model).__name__

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads, prefix included."""
        return self.network.context_length

    @property
    def n_tokens(self) -> int:
        """The number of tokens that have logits, without the padding rows of a model."""
        return min(len(self.tokenizer), self.unembedding.shape[1])

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return len(self.network.norm.weight)

    @cached_property
    def graph(self) -> Graph:
        network = self.network
        has_mlps = network.blocks[0].mlp is not None
        return Graph(len(network.blocks), network.n_heads, has_mlps, network.parallel)

    @property
    def device(self) -> torch.device:
        return next(self.hf_model.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.hf_model.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def dtype_name(self) -> str:
        """The same by the name that `load_model` takes, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        """From the normed stream to logits, with their scale and without a soft cap."""
        return self.network.unembedding

    @property
    def output_biases(self) -> Tensor | float:
        """What attention layers write that belongs to no head."""
        return self.network.output_biases

    @torch.no_grad()
    def final_norm_factor(
        self, final: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """What the final norm multiplies a stream by, once the mean is gone: weight over scale."""
        norm = self.network.norm
        return norm.weight * norm.inverse_scale(final)

    @property
    def norm_is_centred(self) -> bool:
        """Whether the final norm takes the mean from a stream (LayerNorm)."""
        return self.network.norm.centred

    @property
    def has_post_norms(self) -> bool:
        """Whether a norm stands between what heads mix and the residual stream (Gemma 2)."""
        return any(block.attention_post.scaled for block in self.network.blocks)

    @property
    def weight_bytes(self) -> int:
        """The memory of the weights."""
        return sum(parameter.nbytes for parameter in self.hf_model.parameters())

    @cached_property
    def bridge(self) -> Any:
        """The model as a TransformerBridge with the same weights, for tools of TransformerLens.

        acdc-explain does not compute with it.
        """
        return bridge_of(self.hf_model, self.tokenizer)

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

    # --- running -------------------------------------------------------------------------------

    def forward(self, batch: Batch, hooks: Sequence[Hook] = ()) -> Float[Tensor, "batch vocab"]:
        """The logits at each prompt's last token, with gradients if they are switched on.

        Args:
            batch: Prompts, as `batch` makes them.
            hooks: Of `activations`; they watch or replace values.
        """
        final: list[Tensor] = []
        with hooked(self.network, [*hooks, final_hook(batch, final.append)]):
            self.network.body(batch.tokens, use_cache=False)
        return self.unembed(final[0])

    def unembed(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """The logits of residual streams: final norm, unembedding, scale and soft cap."""
        logits = self.network.logits(final.reshape(-1, final.shape[-1]))
        return logits.view(*final.shape[:-1], -1)

    def logits_of(self, final: Tensor, ids: Tensor) -> Float[Tensor, "batch some"]:
        """`unembed` for some tokens alone, without the soft cap."""
        return self.network.logits_of(final, ids)

    @torch.no_grad()
    def run(self, batch: Batch, memory: float = math.inf) -> Activations:
        """One forward pass that keeps attention, and what every node writes at the last tokens.

        The rest is in the host's memory if a search takes more than `memory` GB of the device's.
        """
        size = len(self.graph.writers), len(batch.end), self.d_model
        at_end = torch.zeros(size, dtype=self.dtype, device=self.device)
        patterns: list[Tensor] = []
        final: list[Tensor] = []

        def record(indices: slice, value: Tensor) -> None:
            at_end[indices] = value[:, batch.rows, batch.end]

        hooks = [*writer_hooks(self.graph, record), *pattern_hooks(self.graph, patterns.append)]
        logits = self.forward(batch, [*hooks, final_hook(batch, final.append)])
        numbers = batch.tokens.numel() * self.d_model
        most = search_bytes(self.graph, numbers, self.dtype.itemsize, self.has_post_norms)
        like = at_end.new_empty(0, self.d_model, device=None if most <= memory * 1e9 else "cpu")
        everything = partial(written_everywhere, self.forward, self.graph, batch, like)
        return Activations(at_end, torch.stack(patterns), final[0], logits, everything)

    def patched(self, kind: str, clean: Batch, corrupt: Batch) -> Tensor:
        """The clean prompts' last logits with all queries (or `kind`) of the corrupted prompts."""
        return patched_logits(self.network, kind, clean, corrupt)

    @torch.no_grad()
    def patterns(self, batch: Batch) -> Float[Tensor, "layer batch head query key"]:
        """The attention patterns alone; takes far less memory than `run`."""
        patterns: list[Tensor] = []
        self.forward(batch, pattern_hooks(self.graph, patterns.append))
        return torch.stack(patterns)

    @torch.no_grad()
    def embed(self, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
        """The stream that the first layer reads."""

        def stop(stream: Tensor) -> None:
            raise StopForward(stream)

        try:
            with hooked(self.network, [(Point("input"), stop)]):
                self.network.body(batch.tokens, use_cache=False)
        except StopForward as stopped:
            return stopped.stream
        raise AssertionError("the first layer was not run")

    @torch.no_grad()
    def layer_inputs(self, batch: Batch) -> LayerInputs:
        """One forward pass that keeps what `run_from` needs to run the later layers alone."""
        streams: list[Tensor] = []
        arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            streams.append(args[0] if args else kwargs["hidden_states"])
            named = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            arguments.append((args[1:], named))

        modules = [block.module for block in self.network.blocks]
        handles = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]
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
        with hooked(self.network, hooks):
            for block, (args, named) in zip(self.network.blocks[layer:], inputs.arguments[layer:]):
                output = block.module(stream, *args, **named)
                stream = output[0] if isinstance(output, tuple) else output
        return self.unembed(inputs.batch.at_end(stream))

    @torch.no_grad()
    def forward_seconds(self, batch: Batch, repeats: int = 3) -> float:
        """Median seconds of a plain forward pass, without any hook."""
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            logits = self.hf_model(batch.tokens, use_cache=False).logits
            logits[0, 0, 0].item()  # a GPU works on after the call
            seconds.append(time.perf_counter() - started)
        return round(statistics.median(seconds), 6)
