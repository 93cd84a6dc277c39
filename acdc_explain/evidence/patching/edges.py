"""What one edge does: the sender's output is changed at some tokens, for one port of one receiver.

The change is measured at the receiver, where no other path can hide it: as the change of its
attention (ports q and k), and as the share of the gap that its changed output makes by the gradient
of the metric. For the logits this is the direct effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.activations import head_index, layer_of
from ...models.contrast import Contrast
from ...models.functional.attention import Attention
from ...records.circuit import Node, Port
from .direct import What, logit_directions
from .gradients import stream_gradients
from .passes import Pass, clean_pass

Change = Float[Tensor, "variant batch token d_model"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of each prompt at one place, padded by copies where `valid` is False."""

    index: Int[Tensor, "batch token"]
    valid: Bool[Tensor, "batch token"]

    def of(self, value: Float[Tensor, "batch pos *d"]) -> Float[Tensor, "batch token *d"]:
        """Values at all tokens, at these."""
        return value[torch.arange(len(value), device=value.device)[:, None], self.index]


def place_weights(contrast: Contrast) -> Float[Tensor, "place batch pos"]:
    """1 at the tokens of each of `contrast.place_names`, without padding."""
    return (contrast.place_masks(contrast.place_names) & contrast.clean.within).float()


def tokens_at(contrast: Contrast, place: str) -> Tokens:
    """The tokens of a place: a named position, END, or `rest`, all tokens without a name."""
    mask = contrast.once(place_weights)[contrast.place_names.index(place)].bool()
    most = max(1, int(mask.sum(1).max()))
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    valid = mask.gather(1, order)
    return Tokens(torch.where(valid, order, order[:, :1]), valid)


@dataclass(frozen=True)
class Response:
    """What changes at a receiver, by variant of the sender's output and by prompt.

    Attributes:
        share: The share of the gap that is lost by the changed output at each place of the
            receiver. The mean gap is the unit of all prompts, and of logits too.
        attention: Of ports q and k: the change of attention from each place to each place.
    """

    share: Float[Tensor, "variant batch place"]
    attention: Float[Tensor, "variant batch place place"] | None = None


def unit(contrast: Contrast) -> float:
    """The mean gap between the clean and the corrupted metric; 1 where there is none."""
    return contrast.once(_unit)


def _unit(contrast: Contrast) -> float:
    corrupt = float(contrast.metric(contrast.corrupt_logits).mean())
    return contrast.clean_metric - corrupt or 1.0


@torch.no_grad()
def respond(
    contrast: Contrast, receiver: Node, port: str | None, at: str, change: Change
) -> Response:
    """What a receiver does when one of its ports reads something else.

    Args:
        contrast: The prompts, and the corruption whose gap is the unit.
        receiver: A head, an MLP, or the logits.
        port: q, k or v of a head; answers or foils of the logits, for their logits alone; else
            None.
        at: The place at which the port reads something else.
        change: What is added there to the stream that the port reads.
    """
    tokens = contrast.once(tokens_at, at)
    change = change * tokens.valid[..., None]
    if receiver.kind == "logits":
        lost = -(change * _direction(contrast, port)).sum(-1)
        return Response(_by_place(contrast, tokens, lost))
    if receiver.kind == "mlp":
        return Response(_by_place(contrast, tokens, _of_mlp(contrast, receiver, tokens, change)))
    return _of_head(contrast, receiver, cast(Port, port), tokens, change)


def _direction(contrast: Contrast, port: str | None) -> Float[Tensor, "batch 1 d_model"]:
    """What a change of the last stream does: to the metric, to first order, or to some logits."""
    if port is None:
        return contrast.once(stream_gradients).final[:, None]
    return logit_directions(contrast, cast(What, port))[0][:, None]


def _by_place(
    contrast: Contrast, tokens: Tokens, lost: Float[Tensor, "variant batch token"]
) -> Float[Tensor, "variant batch place"]:
    """Losses at some tokens as shares of the gap, summed by place."""
    masks = contrast.once(place_weights).to(lost.dtype)
    at_tokens = torch.stack([tokens.of(mask) for mask in masks], -1)  # [batch token place]
    return torch.einsum("vbt,btp->vbp", lost * tokens.valid, at_tokens) / unit(contrast)


def _of_mlp(
    contrast: Contrast, receiver: Node, tokens: Tokens, change: Change
) -> Float[Tensor, "variant batch token"]:
    clean, layer = contrast.once_for_clean(clean_pass), layer_of(receiver)
    mlp = clean.runner.layers.mlp[layer]
    assert mlp is not None
    gradient = tokens.of(contrast.once(stream_gradients).at_output(receiver))
    stream, before = tokens.of(clean.mlp_stream(layer)), tokens.of(clean.mlps[layer])
    return -((mlp(stream + change) - before) * gradient).sum(-1)


def _of_head(
    contrast: Contrast, receiver: Node, port: Port, tokens: Tokens, change: Change
) -> Response:
    """For one head: its query, key or value at some tokens changes, and so what it mixes."""
    clean, (layer, head) = contrast.once_for_clean(clean_pass), head_index(receiver)
    attention, places = clean.runner.layers.attention[layer], clean.runner.places[layer]
    tables = places.tables
    if tables is not None:
        tables = tables[0][tokens.index], tables[1][tokens.index]
    new = attention.project(port, head, tokens.of(clean.streams[layer]) + change, tables)
    attended = clean.attended[layer]
    before, v = attended.pattern[0, :, head], attended.v[0, :, head]
    pulled = _pulled(contrast, receiver)  # [batch query d_head]
    masks = contrast.once(place_weights).to(v.dtype)
    if port == "v":
        difference = (new - tokens.of(v)) * tokens.valid[..., None]
        weights = before.gather(2, tokens.index[:, None].expand(-1, before.shape[1], -1))
        lost = -torch.einsum("bqt,vbtd,bqd->vbq", weights, difference, pulled)
        return Response(torch.einsum("vbq,pbq->vbp", lost, masks) / unit(contrast))
    bias = places.bias_of_head(attention.form.distance_scaling, head)
    if port == "q":
        products = new @ attended.k[0, :, head].transpose(-1, -2)
        pattern = attention.pattern(products, bias[tokens.index], head)
        old, at_queries = tokens.of(before), [tokens.of(mask) for mask in masks]
        pulled, valid = tokens.of(pulled), tokens.valid
    else:
        products = _with_keys(contrast, receiver, new, tokens)
        pattern = attention.pattern(products, bias, head)
        old, at_queries = before, list(masks)
        valid = torch.ones_like(before[..., 0], dtype=torch.bool)
    shift = (pattern - old) * valid[..., None]  # [variant batch query key]
    lost = -torch.einsum("vbqk,bkd,bqd->vbq", shift, v, pulled) / unit(contrast)
    at = torch.stack(at_queries) * valid  # [place batch query]
    between = torch.einsum("vbqk,pbq,rbk->vbpr", shift, at, masks)
    count = at.sum(2).clamp_min(1).T[..., None]  # of a place with several tokens, the mean
    return Response(torch.einsum("vbq,pbq->vbp", lost, at), between / count)


def _with_keys(
    contrast: Contrast, head: Node, new: Float[Tensor, "variant batch token d_head"], tokens: Tokens
) -> Float[Tensor, "variant batch query key"]:
    """The products of a head's queries with keys, of which some are new."""
    clean, (layer, number) = contrast.once_for_clean(clean_pass), head_index(head)
    attention, stream = clean.runner.layers.attention[layer], clean.streams[layer]
    q = attention.project("q", number, stream, clean.runner.places[layer].tables)
    products = q @ clean.attended[layer].k[0, :, number].transpose(-1, -2)
    index = tokens.index[:, None].expand(-1, q.shape[1], -1)
    of_new = q @ new.transpose(-1, -2)  # [variant batch query token]
    together = products.expand(len(new), -1, -1, -1).clone()
    kept = products.gather(2, index)
    of_new = torch.where(tokens.valid[:, None], of_new, kept)
    return together.scatter_(3, index.expand_as(of_new), of_new)


def _pulled(contrast: Contrast, head: Node) -> Float[Tensor, "batch pos d_head"]:
    """The gradient of the metric at what a head mixes, before its W_O."""
    clean, (layer, number) = contrast.once_for_clean(clean_pass), head_index(head)
    attention: Attention = clean.runner.layers.attention[layer]
    gradient = contrast.once(stream_gradients).at_output(head)
    if attention.post.scaled:
        scale = clean.scales[layer]
        assert scale is not None
        gradient = attention.post.pull_back(gradient, scale)
    return gradient @ attention.each_output[number].matrix.to(gradient.dtype).T


# --- what the sender writes instead --------------------------------------------------------------


def changes(contrast: Contrast, other: Pass, senders: Sequence[Node], at: str) -> Change:
    """What senders write at a place in another run of the prompts, minus what they write now."""
    clean, tokens = contrast.once_for_clean(clean_pass), contrast.once(tokens_at, at)
    pairs = [
        (other.written_at(x, tokens.index), clean.written_at(x, tokens.index)) for x in senders
    ]
    return torch.stack([there - here for there, here in pairs])


def kept_and_rest(
    clean: Float[Tensor, "*any key"],
    other: Float[Tensor, "*any key"],
    keys: Bool[Tensor, "*any key"],
) -> tuple[Float[Tensor, "*any key"], Float[Tensor, "*any key"]]:
    """Clean attention to some keys, and that of another run to all others.

    The latter is scaled so that the sum over all keys stays what it is when clean: else a head that
    attends elsewhere in the other run would read twice as much.
    """
    rest = other * ~keys
    left = (clean * ~keys).sum(-1, keepdim=True)
    return clean * keys, rest * (left / rest.sum(-1, keepdim=True).clamp_min(1e-9))


def kept_change(
    contrast: Contrast, other: Pass, head: Node, at: str, keys: Bool[Tensor, "batch token pos"]
) -> Float[Tensor, "batch token d_model"]:
    """What a head writes at a place if it reads only some keys as they are, minus what it writes.

    All other keys have the attention and values of another run of the prompts (`kept_and_rest`).
    """
    clean, tokens = contrast.once_for_clean(clean_pass), contrast.once(tokens_at, at)
    layer, number = head_index(head)
    here, there = clean.attended[layer], other.attended[layer]
    kept, rest = kept_and_rest(
        tokens.of(here.pattern[0, :, number]), tokens.of(there.pattern[0, :, number]), keys
    )
    z = kept @ here.v[0, :, number] + rest @ there.v[0, :, number]
    attention, scale = clean.runner.layers.attention[layer], clean.scales[layer]
    written = attention.write(number, z)
    if scale is not None:
        written = attention.post.share(written, tokens.of(scale))
    return written - clean.written_at(head, tokens.index)
