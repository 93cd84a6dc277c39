"""An independent way to cut edges in a plain Hugging Face model, of any family.

It takes the model as transformers loads it, with keys and values that heads share. Nothing of
acdc_explain is used. Each head is run by itself, in four calls of its attention layer: three take
a query, a key and a value from what these three ports read; the fourth is given all three, and of
what the heads mix, this head's columns are taken. Prompts are run one by one, without padding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """Where a model has its parts: paths from the model, and below them names in a layer."""

    layers: str = "model.layers"
    final: str = "model.norm"
    attention: str = "self_attn"
    out: str = "o_proj"
    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    mlp: str | None = "mlp"  # None: `fc1`, `activation_fn` and `fc2` of the layer
    after_mlp: str | None = None
    parallel: bool = False  # the MLP reads what the heads of its layer read


LLAMA = Parts()
PARALLEL = Parts(parallel=True, before_mlp="input_layernorm")
GPT2 = Parts("transformer.h", "transformer.ln_f", "attn", "c_proj", "ln_1", before_mlp="ln_2")
GPTJ = replace(GPT2, out="out_proj", parallel=True, before_mlp="ln_1")
NEOX = Parts("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "dense")
BLOOM = Parts("transformer.h", "transformer.ln_f", "self_attention", "dense")
GEMMA2 = Parts(
    after_attention="post_attention_layernorm", before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)  # fmt: skip
OLMO2 = replace(GEMMA2, before_attention=None, before_mlp=None)
OPT = Parts(
    "model.decoder.layers", "model.decoder.final_layer_norm", "self_attn", "out_proj",
    "self_attn_layer_norm", None, "final_layer_norm", None,
)  # fmt: skip
PARTS: Mapping[str, Parts] = {
    **dict.fromkeys(("gpt2", "gpt_bigcode"), GPT2),
    **dict.fromkeys(("gptj", "codegen"), GPTJ),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA2),
    **dict.fromkeys(("olmo2", "olmo3", "flex_olmo", "exaone4"), OLMO2),
    **dict.fromkeys(("cohere", "cohere2"), PARALLEL),
    "gpt_neo": replace(GPT2, attention="attn.attention", out="out_proj"),
    "opt": OPT,
    "xglm": replace(OPT, layers="model.layers", final="model.layer_norm"),
    "bloom": BLOOM,
    "mpt": Parts(
        "transformer.blocks", "transformer.norm_f", "attn", "out_proj", "norm_1", None, "norm_2",
        "ffn",
    ),
    "vaultgemma": Parts(before_mlp="pre_feedforward_layernorm"),
    "phi": replace(PARALLEL, final="model.final_layernorm", out="dense"),
    "granitemoe": Parts(mlp="block_sparse_moe"),
    "granitemoehybrid": Parts(mlp="shared_mlp"),
    "glm4": Parts(after_attention="post_self_attn_layernorm", after_mlp="post_mlp_layernorm"),
    "apertus": Parts(before_attention="attention_layernorm", before_mlp="feedforward_layernorm"),
    "llama4_text": Parts(mlp="feed_forward"),
}  # fmt: skip
"""By model_type; others are as Llama."""


def parts_of(config: Any) -> Parts:
    """The parts of a model; in some families they follow from its other settings."""
    kind = config.model_type
    if kind == "gpt_neox":
        return replace(NEOX, parallel=config.use_parallel_residual)
    if kind == "stablelm":
        return PARALLEL if config.use_parallel_residual else LLAMA
    if kind == "falcon" and config.new_decoder_architecture and config.num_ln_in_parallel_attn == 2:
        return replace(BLOOM, before_attention="ln_attn", before_mlp="ln_mlp", parallel=True)
    if kind == "falcon" and (config.new_decoder_architecture or config.parallel_attn):
        return replace(BLOOM, before_mlp="input_layernorm", parallel=True)
    return BLOOM if kind == "falcon" else PARTS.get(kind, LLAMA)


def part(module: Any, path: str) -> Any:
    """The part at a dotted path."""
    return reduce(getattr, path.split("."), module)


class FamilyOracle:
    """The last-token logits of a plain Hugging Face model with edges cut."""

    def __init__(self, hf_model: Any) -> None:
        self.model = hf_model
        self.parts = parts_of(hf_model.config)
        self.layers = part(hf_model, self.parts.layers)
        self.n_heads: int = hf_model.config.num_attention_heads
        self.multiplier: float = getattr(hf_model.config, "residual_multiplier", 1.0)

    @torch.no_grad()
    def logits(self, clean: list[int], corrupt: list[int], cut: set[str]) -> Tensor:
        """Logits [vocab] at the last token of `clean`; a cut edge carries what it does on `corrupt`.

        `cut`: edges as they print, such as `a0.h1->a1.h0<k>` and `m1->logits`.
        """
        _, corrupted = self.run(torch.tensor([corrupt]), set(), {})
        return self.run(torch.tensor([clean]), cut, corrupted)[0]

    @torch.no_grad()
    def run(
        self, tokens: Tensor, cut: set[str], corrupted: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The last logits, and what each node wrote [1 pos d_model]."""
        stream, calls = self._plain(tokens)
        wrote = {"input": stream}
        rest = torch.zeros_like(stream)  # what attention layers write that belongs to no head

        def read(receiver: str, port: str, senders: list[str]) -> Tensor:
            edges = {sender: f"{sender}->{receiver}{port}" for sender in senders}
            return rest + sum((corrupted if edge in cut else wrote)[s] for s, edge in edges.items())

        for number, (layer, (args, kwargs)) in enumerate(zip(self.layers, calls)):
            before = list(wrote)
            heads = [f"a{number}.h{head}" for head in range(self.n_heads)]
            mixed = [
                self._head(layer, head, [read(name, f"<{p}>", before) for p in "qkv"], args, kwargs)
                for head, name in enumerate(heads)
            ]
            name = f"m{number}"
            if self.parts.parallel:
                wrote[name] = self._mlp(layer, read(name, "", before))
            shares, remainder = self._shares(layer, mixed)
            wrote.update(zip(heads, shares))
            rest = rest + remainder
            if not self.parts.parallel:
                wrote[name] = self._mlp(layer, read(name, "", [*before, *heads]))
        return self._logits(tokens, read("logits", "", list(wrote))), wrote

    # --- the parts ---------------------------------------------------------------------------------

    def _plain(self, tokens: Tensor) -> tuple[Tensor, list[Any]]:
        """The stream that the first layer reads, and what attention layers take beside theirs."""
        calls: list[Any] = []

        def keep(module: Any, args: Any, kwargs: Any) -> None:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            whole = [kwargs["hidden_states"], *args] if "hidden_states" in kwargs else args
            calls.append((whole[0], whole[1:], named))

        attentions = [part(layer, self.parts.attention) for layer in self.layers]
        modules = [self.layers[0], *attentions]
        with removed([m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]):
            self.model(tokens, use_cache=False)
        return calls[0][0], [call[1:] for call in calls[1:]]

    def _logits(self, tokens: Tensor, final: Tensor) -> Tensor:
        """The model's own logits, with another stream before its last norm."""
        norm = part(self.model, self.parts.final)
        handle = norm.register_forward_pre_hook(lambda module, args: (final, *args[1:]))
        with removed([handle]):
            logits: Tensor = self.model(tokens, use_cache=False).logits[0, -1]
        return logits

    def _head(self, layer: Any, head: int, streams: list[Tensor], args: Any, named: Any) -> Tensor:
        """What a head mixes, times W_O, from what its three ports read."""
        attention = part(layer, self.parts.attention)
        out = part(attention, self.parts.out)
        if self.model.config.model_type == "bloom":  # it adds the stream, its second argument
            args = (torch.zeros_like(streams[0]), *args[1:])
        ports = {}
        for port, stream in zip("qkv", streams):
            normed = self._normed(layer, self.parts.before_attention, stream)
            tap = Tap()
            with tapped(attention, tap):
                attention(normed, *args, **named)
            ports[port] = tap.seen[port]
        z: list[Tensor] = []
        handle = out.register_forward_pre_hook(lambda module, args: z.append(args[0]))
        with removed([handle]), tapped(attention, Tap(ports)):
            attention(normed, *args, **named)
        alone = torch.zeros_like(z[0])
        width = alone.shape[-1] // self.n_heads
        columns = slice(head * width, (head + 1) * width)
        alone[..., columns] = z[0][..., columns]
        written: Tensor = out(alone) - out(torch.zeros_like(alone))
        return written

    def _shares(self, layer: Any, mixed: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What each head of a layer adds to the stream, and what their layer adds beside them."""
        out = part(part(layer, self.parts.attention), self.parts.out)
        width = mixed[0].shape[-1]
        bias = getattr(out, "bias", None)
        bias = mixed[0].new_zeros(width) if bias is None else bias
        shares, written = mixed, sum(mixed, bias)
        if self.parts.after_attention is not None:
            norm = part(layer, self.parts.after_attention)
            mixed = [one + bias / self.n_heads for one in mixed]
            weight = 1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight
            eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
            size = (written.square().mean(-1, keepdim=True) + eps).sqrt()
            shares, written = [one / size * weight for one in mixed], norm(written)
        shares = [one * self.multiplier for one in shares]
        return shares, written * self.multiplier - sum(shares)

    def _mlp(self, layer: Any, stream: Tensor) -> Tensor:
        """What an MLP adds to the stream, from what it reads."""
        x = self._normed(layer, self.parts.before_mlp, stream)
        if self.parts.mlp is None:
            y = layer.fc2(layer.activation_fn(layer.fc1(x)))
        elif self.model.config.model_type in ("bloom", "mpt"):  # they add their second argument
            y = part(layer, self.parts.mlp)(x, torch.zeros_like(x))
        else:
            y = part(layer, self.parts.mlp)(x)
        y = y[0] if isinstance(y, tuple) else y
        written: Tensor = self._normed(layer, self.parts.after_mlp, y.view_as(x))
        return written * self.multiplier

    def _normed(self, layer: Any, name: str | None, stream: Tensor) -> Any:
        return stream if name is None else part(layer, name)(stream)


# --- one head's query, key and value ---------------------------------------------------------------


class Tap:
    """Sees the queries, keys and values of an attention layer on their way, and may replace them."""

    def __init__(self, replacements: Mapping[str, Tensor] | None = None) -> None:
        self.replacements = replacements or {}
        self.seen: dict[str, Tensor] = {}

    def __call__(self, *values: Tensor, ports: str = "qkv") -> list[Tensor]:
        self.seen.update(zip(ports, values))
        return [self.replacements.get(port, value) for port, value in zip(ports, values)]


@contextmanager
def tapped(attention: Any, tap: Tap) -> Iterator[None]:
    """Let a tap see all queries, keys and values that an attention layer makes of its input."""
    with ExitStack() as stack:
        for holder, name, value in _wrappers(attention, tap):
            stack.enter_context(swapped(holder, name, value))
        yield


def _wrappers(attention: Any, tap: Tap) -> list[tuple[Any, str, Callable[..., Any]]]:
    """Functions with a tap, and where they stand: those that get queries, keys and values."""
    module = sys.modules[type(attention).__module__]
    eager, own = getattr(module, "eager_attention_forward", None), getattr(attention, "_attn", None)
    if eager is not None:
        return [
            (module, "eager_attention_forward",
             lambda layer, q, k, v, *args, **named: eager(layer, *tap(q, k, v), *args, **named))
        ]  # fmt: skip
    if own is not None:
        return [
            (attention, "_attn", lambda q, k, v, *args, **named: own(*tap(q, k, v), *args, **named))
        ]
    name = next((n for n in ("_split_heads", "_reshape") if hasattr(attention, n)), None)
    if name is not None:  # q, k and v come from one product, and a method takes them apart
        split = getattr(attention, name)
        return [(attention, name, lambda fused: tap(*split(fused)))]
    if hasattr(attention, "Wqkv"):
        fused = attention.Wqkv.forward
        return [(attention.Wqkv, "forward", lambda x: torch.cat(tap(*fused(x).chunk(3, -1)), -1))]
    linears = {port: getattr(attention, f"{port}_proj") for port in "qkv"}
    return [(linear, "forward", _one(tap, port, linear)) for port, linear in linears.items()]


def _one(tap: Tap, port: str, linear: Any) -> Callable[[Tensor], Tensor]:
    forward = linear.forward
    return lambda x: tap(forward(x), ports=port)[0]


@contextmanager
def swapped(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute for a while."""
    own, before = name in vars(holder), vars(holder).get(name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before) if own else delattr(holder, name)


@contextmanager
def removed(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
