"""Claims about a real model, computed again with plain Hugging Face code.

Nothing of this project's measures is used: only its prompts, its circuit and what it claims.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import acdc_explain as ax
from acdc_explain.errors import UserError
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import ClaimResult

pytestmark = pytest.mark.slow


def number(values: torch.Tensor) -> float:
    """The mean, as a number."""
    return float(values.detach().mean())


class PlainHuggingFace:
    """Clean and corrupted runs of a Llama model, and single paths, by its own modules."""

    def __init__(self, contrast: Any) -> None:
        self.hf, self.contrast = contrast.model.hf_model, contrast
        self.tokens, self.other = contrast.clean.tokens, contrast.corrupt.tokens
        self.end, self.rows = contrast.clean.end, torch.arange(len(contrast))
        config = self.hf.config
        self.n_heads, self.group = (
            config.num_attention_heads,
            config.num_attention_heads // config.num_key_value_heads,
        )
        self.d_head = config.hidden_size // self.n_heads
        self.clean, self.corrupt = (self._run(self._embedded(x)) for x in (self.tokens, self.other))
        self.gap = number(self._metric(self.clean) - self._metric(self.corrupt))

    def _embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.hf.model.embed_tokens(tokens)

    def _run(self, embedded: torch.Tensor) -> dict[str, Any]:
        kept: dict[str, Any] = defaultdict(dict)
        handles = []
        for number, layer in enumerate(self.hf.model.layers):

            def keep(name: str, number: int = number) -> Any:
                def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
                    value = (
                        output if name in ("mlp", "v") else (args or (kwargs["hidden_states"],))[0]
                    )
                    kept[name][number] = value
                    if value.requires_grad:
                        value.retain_grad()

                return hook

            for name, module in (
                ("mlp", layer.mlp),
                ("v", layer.self_attn.v_proj),
                ("z", layer.self_attn.o_proj),
                ("stream", layer.input_layernorm),
                ("middle", layer.post_attention_layernorm),
            ):
                handles.append(module.register_forward_hook(keep(name), with_kwargs=True))
        handles.append(
            self.hf.model.norm.register_forward_pre_hook(
                lambda module, args: kept["final"].__setitem__(0, args[0])
            )
        )
        with torch.enable_grad():
            embedded = embedded.detach().requires_grad_(True)
            output = self.hf(inputs_embeds=embedded, use_cache=False, output_attentions=True)
        for handle in handles:
            handle.remove()
        return {**kept, "logits": output.logits, "attentions": output.attentions}

    def _metric(self, run: dict[str, Any]) -> torch.Tensor:
        at_end = run["logits"][self.rows, self.end]
        answers, foils = (
            torch.tensor(
                [self.contrast.model.single(getattr(e, what)[0]) for e in self.contrast.examples]
            )
            for what in ("answers", "foils")
        )
        return at_end[self.rows, answers] - at_end[self.rows, foils]

    @cached_property
    def gradients(self) -> dict[str, dict[int, torch.Tensor]]:
        """Of the metric at what heads together and MLPs write, on average on the way to corrupt."""
        start, end = self._embedded(self.tokens), self._embedded(self.other)
        sums: dict[str, dict[int, torch.Tensor]] = {"mlp": {}, "middle": {}}
        for share in (0, 0.25, 0.5):
            run = self._run(start + share * (end - start))
            self._metric(run).sum().backward()
            for name, found in sums.items():
                for layer, x in run[name].items():
                    found[layer] = found.get(layer, 0) + x.grad / 3
        return {"mlp": sums["mlp"], "heads": sums["middle"]}

    def at(self, place: str) -> torch.Tensor:
        if place != "rest":
            return self.contrast.position_mask(place)
        named = [self.contrast.position_mask(name) for name in self.contrast.position_names]
        return ~torch.stack(named).any(0) & self.contrast.clean.within

    def written(self, run: dict[str, Any], node: Node) -> torch.Tensor:
        if node.kind == "mlp":
            return run["mlp"][node.layer].detach()
        part = slice(node.head * self.d_head, (node.head + 1) * self.d_head)
        weight = self.hf.model.layers[node.layer].self_attn.o_proj.weight
        return (run["z"][node.layer][..., part] @ weight[:, part].T).detach()

    def attention(self, node: Node, at: str, to: torch.Tensor) -> float:
        pattern = self.clean["attentions"][node.layer][:, node.head]
        return number((pattern * self.at(at)[:, :, None] * to).sum((1, 2)).mean())

    def direct(self, node: Node, what: str, source: str | None) -> float:
        """What a head's values at a position, or an MLP, add to the logits of answers or foils."""
        final = self.clean["final"][0][self.rows, self.end].detach()
        norm = self.hf.model.norm
        scale = (final.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        ids = [self.contrast.model.single(getattr(e, what)[0]) for e in self.contrast.examples]
        direction = self.hf.lm_head.weight[ids] * norm.weight * scale
        if node.kind == "mlp":
            return number(
                (self.written(self.clean, node)[self.rows, self.end] * direction).sum(-1).mean()
            )
        pattern = self.clean["attentions"][node.layer][self.rows, node.head, self.end]
        key = node.head // self.group
        v = self.clean["v"][node.layer][..., key * self.d_head : (key + 1) * self.d_head]
        part = slice(node.head * self.d_head, (node.head + 1) * self.d_head)
        weight = self.hf.model.layers[node.layer].self_attn.o_proj.weight[:, part]
        mixed = torch.einsum("bk,bkd->bd", pattern * (1 if source is None else self.at(source)), v)
        return number(((mixed @ weight.T) * direction).sum(-1).mean())

    def path(self, claim: dict[str, Any], sender: Node) -> float:
        """What the sender does to the receiver: attention, or share of the gap."""
        at = self.at(claim["at"])
        change = (self.written(self.corrupt, sender) - self.written(self.clean, sender)) * at[
            ..., None
        ]
        if claim["receiver"] == "logits":
            final = self.clean["final"][0].detach().requires_grad_(True)
            with torch.enable_grad():
                logits = self.hf.lm_head(self.hf.model.norm(final))
                self._metric({"logits": logits}).sum().backward()
            return number(-(change * final.grad).sum((1, 2)).mean() / self.gap)
        receiver = Node.parse(claim["receiver"])
        layer = self.hf.model.layers[receiver.layer]
        if receiver.kind == "mlp":
            stream = self.clean["middle"][receiver.layer].detach()
            moved = layer.mlp(layer.post_attention_layernorm(stream + change))
            moved = moved - self.clean["mlp"][receiver.layer].detach()
            return number(
                -(moved * self.gradients["mlp"][receiver.layer]).sum((1, 2)).mean() / self.gap
            )
        return self._head(receiver, layer, claim, change)

    def _head(
        self, receiver: Node, layer: Any, claim: dict[str, Any], change: torch.Tensor
    ) -> float:
        stream, attention = self.clean["stream"][receiver.layer].detach(), layer.self_attn
        streams = {port: layer.input_layernorm(stream) for port in "qkv"}
        streams[claim["port"]] = layer.input_layernorm(stream + change)
        size, head = self.d_head, receiver.head
        q = attention.q_proj(streams["q"])[..., head * size : (head + 1) * size]
        key = slice(head // self.group * size, (head // self.group + 1) * size)
        k, v = attention.k_proj(streams["k"])[..., key], attention.v_proj(streams["v"])[..., key]
        places = torch.arange(stream.shape[1])[None]
        cos, sin = self.hf.model.rotary_emb(v, places)
        q, k = apply_rotary_pos_emb(q[:, None], k[:, None], cos, sin)
        scores = (q @ k.transpose(-1, -2))[:, 0] / size**0.5
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        before = self.clean["attentions"][receiver.layer][:, head].detach()
        if claim["key"] is not None:
            both = self.at(claim["query"])[:, :, None] & self.at(claim["key"])[:, None]
            return number(((before - pattern) * both).sum((1, 2)).mean())
        part = slice(head * size, (head + 1) * size)
        moved = (pattern @ v) - self.clean["z"][receiver.layer][..., part].detach()
        moved = moved @ attention.o_proj.weight[:, part].T
        return number(
            -(moved * self.gradients["heads"][receiver.layer]).sum((1, 2)).mean() / self.gap
        )


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ax.Run, Any]:
    try:
        model = ax.load_model("smollm2-135m")
    except UserError as reason:
        pytest.skip(f"there is no SmolLM2 here: {reason}")
    store: Path = tmp_path_factory.mktemp("claims") / "s.duckdb"
    options = {"discoverer": "eap", "max_edges": 150, "examples": 16}
    options |= {"collectors": ("attention",), "judges": ()}
    run = ax.explain("ioi", model, store=store, **options)
    return run, ax.contrast(run.task, model, "held_out")


def test_most_of_the_circuit_is_explained(explained):
    run, _ = explained
    coverage = run.coverage
    assert coverage.components >= 0.6
    assert coverage.effect >= 0.9
    outcomes = Counter(result.outcome for result in run.claims)
    assert outcomes["holds"] > 8 * outcomes["fails"]


def test_known_heads_are_claimed_to_do_what_they_do(explained):
    run, _ = explained

    def claims(node: str, name: str) -> list[dict[str, Any]]:
        found = run[node].claims
        return [x.claim.arguments for x in found if x.claim.name == name and x.outcome == "holds"]

    for mover in ("a23.h0", "a23.h1", "a23.h2", "a23.h7"):
        assert ("answers", "IO") in {(x["what"], x["source"]) for x in claims(mover, "raises")}
    assert ("answers", "IO") in {(x["what"], x["source"]) for x in claims("a24.h4", "lowers")}
    assert ("foils", "S2") in {(x["what"], x["source"]) for x in claims("a23.h3", "lowers")}
    assert {"S1", "duplicate"} & {x["to"] for x in claims("a8.h1", "attends")}
    for head in ("a19.h2", "a20.h0"):  # S-inhibition
        movers = [x for x in claims(head, "feeds") if x["receiver"].startswith("a23")]
        assert movers
        assert {x["at"] for x in movers} == {"END"}
        assert {x["variable"] for x in claims(head, "carries")} == {"S2"}


def recomputed(plain: PlainHuggingFace, result: ClaimResult) -> float | None:
    """The value of a claim by plain code, with the sign that is claimed; None for other kinds."""
    node, name, arguments = result.node, result.claim.name, result.claim.arguments
    if name in ("raises", "lowers"):
        value = plain.direct(node, arguments["what"], arguments["source"])
        return value if name == "raises" else -value
    if name == "feeds" and arguments["query"] != "rest":  # of several queries it is the mean
        return plain.path(arguments, node) * (1 if arguments["by"] > 0 else -1)
    return None


def test_plain_code_agrees_with_what_is_claimed(explained):
    """Direct effects and single paths of all claims that hold."""
    run, contrast = explained
    plain = PlainHuggingFace(contrast)
    errors = []
    for result in run.claims:
        if result.outcome == "holds" and (value := recomputed(plain, result)) is not None:
            errors.append((abs(value - result.value) / abs(result.value), result.text, value))
    assert len(errors) > 100
    assert max(errors)[0] < 0.01, sorted(errors)[-10:]


def test_attention_of_claims_is_the_model_s_own(explained):
    run, contrast = explained
    plain = PlainHuggingFace(contrast)
    checked = 0
    for result in run.claims:
        arguments = result.claim.arguments
        if (
            result.claim.name != "attends"
            or result.outcome != "holds"
            or "rest" in arguments.values()
        ):
            continue
        if result.unit == "attention" and arguments["to"] in contrast.place_names:
            to = plain.at(arguments["to"])[:, None]
            value = plain.attention(result.node, arguments["at"], to)
            assert value == pytest.approx(result.value, rel=0.05)
            checked += 1
    assert checked
