"""Where the named tokens of a task's prompts are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import UserError
from ..records.graph import END, PLACE, REST
from ..records.task import Example, shared_positions
from .activations import Batch


class Positions:
    """The token positions that all examples name, and the places that circuits are split by.

    A place is a set of tokens, and every token is in exactly one: a named position, END (the last
    token), or `rest` (all tokens without a name).
    """

    def __init__(
        self, task_name: str, examples: Sequence[Example], batch: Batch, n_prefix: int
    ) -> None:
        """`n_prefix`: the number of special tokens before each prompt, which are not counted."""
        self._task_name = task_name
        self._examples = examples
        self._batch = batch
        self._n_prefix = n_prefix

    @property
    def names(self) -> tuple[str, ...]:
        """The positions that every example names, in the order of the first example."""
        return shared_positions(self._examples)

    def index(self, name: str) -> Int[Tensor, "batch"]:
        """The index of a named position in each row of the batch, prefix included."""
        return self._indices[name]

    @cached_property
    def _indices(self) -> dict[str, Int[Tensor, "batch"]]:
        rows = [
            [example.positions[name] + self._n_prefix for example in self._examples]
            for name in self.names
        ]
        return dict(zip(self.names, torch.tensor(rows, device=self._batch.end.device)))

    def mask(self, name: str) -> Bool[Tensor, "batch pos"]:
        """The token at a named position of each row.

        END is the last token, if the examples do not name it themselves.
        """
        unnamed_end = name == END and END not in self.names
        return self._mask_at(self._batch.end if unnamed_end else self.index(name))

    def _mask_at(self, index: Int[Tensor, "batch"]) -> Bool[Tensor, "batch pos"]:
        tokens = torch.arange(self._batch.tokens.shape[1], device=index.device)
        return tokens == index[:, None]

    @cached_property
    def place_names(self) -> tuple[str, ...]:
        """`rest`, then the named positions in the order of the first prompt, then END.

        Raises UserError for a name that cannot be part of a node's name.
        """
        names = [name for name in self.names if name != END]
        for name in names:
            if not PLACE.fullmatch(name):
                raise UserError(
                    f"Task {self._task_name!r} has a position {name!r}, which cannot be part of a "
                    "node's name; use letters, digits, _, + and . where circuits are split."
                )
        return (REST, *sorted(names, key=lambda name: self._examples[0].positions[name]), END)

    def masks(self, places: Sequence[str]) -> Bool[Tensor, "place batch pos"]:
        """Which tokens belong to each place; without places, one mask of all tokens.

        A token with several names belongs to the one that comes first in `places`, but the last
        token always to END.
        """
        everything = torch.ones_like(self._batch.tokens, dtype=torch.bool)
        if not places:
            return everything[None]
        masks = {END: self._mask_at(self._batch.end)}
        free = everything & ~masks[END]
        for name in places:
            if name not in (END, REST):
                masks[name] = self._mask_at(self.index(name)) & free
                free = free & ~masks[name]
        masks[REST] = free
        return torch.stack([masks[name] for name in places])
