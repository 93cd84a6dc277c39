"""Judge `prediction_llm`: what can an LLM predict from a label's words alone?

As `prediction`, but an LLM reads the words.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge

from ..labelers.llm import Reply
from .prediction import Change, Game, game_verdict
from .verdicts import without_numbers

if TYPE_CHECKING:
    from acdc_explain.llm.session import Session
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.verdict import Verdict

MOST_TOKENS = 3  # tokens that the LLM may name, the likeliest first
NODE = re.compile(r"\b(?:a\d+\.h\d+|m\d+)\b")


class Guess(Reply):
    """Where a head attends from one token, and what cutting it does."""

    tokens: list[int] = Field(min_length=1, max_length=MOST_TOKENS)
    cutting: Change


def prediction_llm(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    session: Callable[[], Session],
    *,
    llm_model: str = "",
    questions: int = 16,
    seed: int = 0,
) -> Iterator[Verdict]:
    """An LLM predicts from the label alone; chance is its prediction from a label of another role.

    It is asked at the positions that the label names, else at the last token.

    Args:
        session: Opens the session in which the LLM is asked.
        llm_model: The LLM, as part of what identifies a verdict.
        questions: Tokens of held-out prompts to ask about, for each label.
    """
    from acdc_explain.llm.exchange import NotAsked, UnusableReply

    heads = [label for label in labels if label.node.kind == "head"]
    for label in heads:
        others = [x for x in heads if x.role != label.role and x.description != label.description]
        if not others:
            continue
        shuffled = random.Random(f"{seed} {label.id}").choice(others)
        rows = _rows(contrast, label, questions)
        try:
            game, guesses = _predicted(contrast, session(), label, roles, rows)
            chance, _ = _predicted(contrast, session(), shuffled, roles, rows)
        except UnusableReply:
            yield without_numbers(label, "prediction_llm", "the LLM gave no usable reply")
            continue
        except NotAsked:  # it is asked later, and has no verdict until then
            continue
        changes = [guess.cutting for guess in guesses]
        change = max(changes, key=changes.count)
        auc = chance.auc(contrast, label)[0]
        yield game_verdict("prediction_llm", contrast, label, game, [auc], change)


def _rows(contrast: Contrast, label: Label, most: int) -> list[tuple[int, int]]:
    """Examples and query positions of the last one of the tokens at each place of a label."""
    places = [name for name in label.positions if name in contrast.place_names]
    masks = contrast.place_masks(contrast.place_names)
    chosen = [masks[contrast.place_names.index(name)] for name in places] or [masks[-1]]
    rows = [
        (example, int(mask[example].nonzero().max()))
        for example in range(len(contrast))
        for mask in chosen
        if bool(mask[example].any())
    ]
    return rows[:most]


def _predicted(
    contrast: Contrast,
    session: Session,
    words: Label,
    roles: Mapping[str, RoleCard],
    rows: Sequence[tuple[int, int]],
) -> tuple[Game, list[Guess]]:
    """What the LLM predicts for tokens of held-out prompts. Raises what `ask` raises."""
    import torch

    from acdc_explain.llm.session import run_async

    prefix = len(contrast.model.prefix)

    async def guess(example: int, query: int) -> Guess:
        tokens = contrast.model.pieces(contrast.examples[example].clean)[: query - prefix + 1]
        ask = session.ask()
        card = roles.get(words.role)
        prompt = ask.render(
            "predict",
            role=words.role,
            claim=card.claim if card else "",
            description=NODE.sub("another component", words.description),
            tokens=list(enumerate(tokens)),
            last=len(tokens) - 1,
            most=MOST_TOKENS,
        )
        reply, _ = await ask("predict", prompt, Guess.model_json_schema(), _reader(len(tokens)))
        return reply

    async def all_of_them() -> list[Guess]:
        asked = await asyncio.gather(*(guess(*row) for row in rows), return_exceptions=True)
        for answer in asked:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in asked if isinstance(answer, Guess)]

    guesses = run_async(all_of_them, session)
    score = torch.zeros(len(rows), contrast.clean.tokens.shape[1], dtype=torch.double)
    for row, reply in enumerate(guesses):
        for rank, token in enumerate(dict.fromkeys(reply.tokens)):
            score[row, token + prefix] = MOST_TOKENS - rank
    examples, queries = (torch.tensor(numbers) for numbers in zip(*rows))
    return Game(examples, queries, score), guesses


def _reader(n: int) -> Callable[[str], Guess]:
    """Reads a reply about a prompt of `n` tokens. Raises ValueError if it is unusable."""

    def read(reply: str) -> Guess:
        guess = Guess.model_validate_json(reply)
        if unknown := [token for token in guess.tokens if not 0 <= token < n]:
            raise ValueError(f"there is no token {unknown[0]}")
        return guess

    return read


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"prediction_llm": Judge(prediction_llm, on_request=True, asks_llm=True)}
