"""What attention adds to the products of queries and keys: masks, and biases by distance.

Both come from what the model itself gives to its attention layers, so windows, chunks, ALiBi and
rotary tables of any kind are those of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..network.norm import UnsupportedModel
from ..network.parts import Network


@dataclass(frozen=True)
class Places:
    """The positions of a prompt, as an attention layer sees them."""

    cos: Float[Tensor, "pos half"] | None  # of rotary positions, if there are any
    sin: Float[Tensor, "pos half"] | None
    mask: Float[Tensor, "some query key"]  # minus infinity where a query does not see a key
    distance: Float[Tensor, "some #query key"] | None  # ALiBi, by head

    @property
    def tables(self) -> tuple[Float[Tensor, "pos half"], Float[Tensor, "pos half"]] | None:
        """Cosines and sines, if there are rotary positions."""
        return None if self.cos is None or self.sin is None else (self.cos, self.sin)

    def bias(self, distance_scaling: float) -> Float[Tensor, "some query key"]:
        """What is added to the scores of heads."""
        return self.mask if self.distance is None else self.mask + self.distance * distance_scaling

    def bias_of_head(self, distance_scaling: float, head: int) -> Float[Tensor, "query key"]:
        """The same for one head."""
        mask = self.mask[head if len(self.mask) > 1 else 0]
        return mask if self.distance is None else mask + self.distance[head] * distance_scaling

    @staticmethod
    def of(attention: Any, arguments: Mapping[str, Any], like: Tensor, n_heads: int) -> Places:
        """From what an attention layer takes beside the stream.

        Args:
            attention: The model's own module.
            arguments: By name.
            like: The queries' type and device; its second-last dimension is the number of tokens.
            n_heads: The number of heads.
        """
        length = like.shape[-2]
        cos, sin = _rotary(attention, arguments.get("position_embeddings"), length)
        distance = arguments.get("alibi", arguments.get("position_bias"))
        if distance is not None:  # of every prompt and head
            flat = distance.reshape(-1, *distance.shape[-2:])
            distance = flat[:n_heads, -length:, -length:].to(like.dtype)
        mask = _mask(attention, arguments.get("attention_mask"), length, like)
        as_like = [None if x is None else x.to(like.dtype) for x in (cos, sin)]
        return Places(as_like[0], as_like[1], mask, distance)


def _rotary(attention: Any, tables: Any, length: int) -> tuple[Tensor | None, Tensor | None]:
    """Cosines and sines of each pair of dimensions, whichever way the model repeats them."""
    if isinstance(tables, (tuple, list)) and len(tables) == 2:
        cos, sin = (table.reshape(-1, *table.shape[-2:])[0] for table in tables)
        return _once(cos), _once(sin)
    sin_cos = getattr(attention, "embed_positions", None)  # GPT-J: sines, then cosines
    if isinstance(sin_cos, Tensor):
        sin, cos = sin_cos[:length].chunk(2, -1)
        return cos, sin
    return None, None


def _once(table: Float[Tensor, "pos width"]) -> Float[Tensor, "pos half"]:
    """A table without repetitions: models repeat it as a whole, or each of its columns."""
    half = table.shape[-1] // 2
    if torch.equal(table[:, :half], table[:, half : 2 * half]):
        return table[:, :half]
    if torch.equal(table[:, ::2], table[:, 1::2]):
        return table[:, ::2]
    return table


def _mask(attention: Any, given: Any, length: int, like: Tensor) -> Float[Tensor, "some query key"]:
    """What is added to scores: minus infinity where a query does not see a key."""
    later = torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)
    hidden, added = later[None], torch.zeros((), dtype=like.dtype, device=like.device)
    if isinstance(given, Tensor):
        given = given.reshape(-1, *given.shape[-3:])[0][:, :length, :length]
        if given.dtype == torch.bool:  # some models mark what is seen, others what is hidden
            hidden = given != given[:, :1, :1]
        else:
            hidden = given <= torch.finfo(given.dtype).min / 2
            added = given.to(like.dtype)
    elif given is not None:
        raise UnsupportedModel(f"its attention takes a {type(given).__name__} as mask")
    own = getattr(attention, "bias", None)  # GPT-Neo: True where a key is seen
    if isinstance(own, Tensor) and own.ndim == 4 and own.dtype == torch.bool:
        hidden = hidden | ~own[0, :, :length, :length]
    if hidden.diagonal(dim1=-2, dim2=-1).any():
        raise UnsupportedModel("some tokens do not see themselves in its attention")
    return torch.where(hidden, -torch.inf, added.expand(hidden.shape))


class _Enough(Exception):
    """Every attention layer has been reached."""


@torch.no_grad()
def places_of(network: Network, length: int) -> list[Places]:
    """What each attention layer of a model takes on prompts of a number of tokens."""
    device = network.head.weight.device
    found: list[Places] = []
    like = network.norm.weight.expand(length, -1)

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(_shared(Places.of(module, kwargs, like, network.n_heads), found))
        if len(found) == len(network.blocks):
            raise _Enough

    modules = [block.attention.module for block in network.blocks]
    handles = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]
    try:
        network.body(torch.zeros(1, length, dtype=torch.long, device=device), use_cache=False)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def _shared(places: Places, before: list[Places]) -> Places:
    """The same tables as an earlier layer's, if they are equal, so that they are held once."""
    return next((other for other in before if _equal(places, other)), places)


def _equal(a: Places, b: Places) -> bool:
    pairs = ((a.cos, b.cos), (a.sin, b.sin), (a.mask, b.mask), (a.distance, b.distance))
    return all(
        x is y or (x is not None and y is not None and x.shape == y.shape and torch.equal(x, y))
        for x, y in pairs
    )
