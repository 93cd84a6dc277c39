"""How a model's tokenizer cuts text into tokens, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch

from ..errors import UserError
from .activations import Batch

REMEMBERED = 16_384  # texts, and tokens


class Tokens:
    """The tokenizer of a model. `model_name` is for error messages.

    `short_prompt`: see `names.short_prompt`.
    """

    def __init__(
        self, tokenizer: Any, model_name: str, context_length: int, short_prompt: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._short_prompt = short_prompt
        self._model_name = model_name
        self._context_length = context_length
        # Tasks ask for the same words and prompts again and again.
        self._ids = lru_cache(REMEMBERED)(self._cut)
        self._piece = lru_cache(REMEMBERED)(self._decoded)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The special tokens the model's own tokenizer puts before a text (BOS, or none)."""
        text = next(filter(self.ids, self._texts()), " a")
        bare, full = self.ids(text), self.tokenizer(text).input_ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start])
        return ()

    def _texts(self) -> Iterator[str]:
        """Some text; for a vocabulary without the letter a, each of its tokens."""
        yield " a"
        special = set(self.tokenizer.all_special_ids)
        yield from (self.piece(i) for i in range(len(self.tokenizer)) if i not in special)

    @property
    def unknown(self) -> str | None:
        """The piece that stands for words outside the vocabulary."""
        return self.tokenizer.unk_token  # type: ignore[no-any-return]

    def ids(self, text: str) -> list[int]:
        """The ids of a text's own tokens, without the prefix."""
        return list(self._ids(text))

    def _cut(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def piece(self, token_id: int) -> str:
        """The text of one token. Raises IndexError outside the vocabulary."""
        if not 0 <= token_id < len(self.tokenizer):
            raise IndexError(token_id)
        return self._piece(token_id)

    def _decoded(self, token_id: int) -> str:
        text: str = self.tokenizer.decode([token_id])
        return text

    def single(self, word: str) -> int:
        """The id of a word that is one token. Raises UserError otherwise."""
        ids = self.ids(word)
        if len(ids) != 1:
            raise UserError(f"{word!r} is {len(ids)} tokens of {self._model_name}, not one.")
        return ids[0]

    def batch(self, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """Token ids with the prefix before them and padding after them.

        Raises UserError if a row is longer than the model's context, or if padding would change
        how the model reads the shorter ones.
        """
        full = [[*self.prefix, *row] for row in rows]
        longest = max(map(len, full))
        if longest > self._context_length:
            raise UserError(
                f"A prompt has {longest} tokens and {self._model_name} reads at most "
                f"{self._context_length}; use shorter prompts."
            )
        limit = self._short_prompt
        if limit is not None and min(map(len, full)) <= limit < longest:
            raise UserError(
                f"{self._model_name} has other rotary positions for prompts of more than {limit} "
                "tokens, and some prompts have more and some do not; use prompts of one kind."
            )
        padded = [row + [0] * (longest - len(row)) for row in full]
        tokens = torch.tensor(padded, dtype=torch.long)
        end = torch.tensor([len(row) - 1 for row in full])
        return Batch(tokens.to(device), end.to(device))
