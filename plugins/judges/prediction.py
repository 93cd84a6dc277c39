"""Judges `prediction` and `prediction_llm`: what can be foretold from a label's words alone?

A predictor that knows the words and not the head says where it attends on held-out prompts, and
whether cutting it raises or lowers the metric. The idea is that of Bills et al. 2023, for neurons.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Outcome, Verdict

from ..labelers.llm import Reply

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.llm.session import Session
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

GOOD, POOR = 0.75, 0.6  # ROC AUC; 0.5 is a coin
RAISES = ("negative_name_mover",)  # cutting it raises the metric; cutting any other lowers it
NAMED = 3  # tokens that the LLM may name, the likeliest first
NODE = re.compile(r"\b(?:a\d+\.h\d+|m\d+)\b")

Change = Literal["raises", "lowers", "neither"]


@dataclass(frozen=True)
class Game:
    """Some rows of a head's attention: of which query of which example, and what is foretold.

    `score` [row key] is higher where more attention is foretold.
    """

    examples: Tensor  # [row]
    queries: Tensor  # [row]
    score: Tensor  # [row key]

    def auc(self, contrast: Contrast, label: Label) -> tuple[float, tuple[float, float]]:
        """How well the score tells the most attended key of each row from the others.

        With the bootstrap interval over rows. The first token is left out, where heads rest.
        """
        import torch

        from acdc_explain.evidence.measurement import Measurement
        from acdc_explain.models.activations import head_index

        layer, head = head_index(label.node)
        rows = contrast.clean_run.patterns[layer, self.examples, head, self.queries]
        places = torch.arange(rows.shape[1], device=rows.device)
        first = max(1, len(contrast.model.prefix))
        open_ = (places >= first) & (places <= self.queries[:, None])
        best = rows.masked_fill(~open_, -1).argmax(1, keepdim=True)
        top = self.score.gather(1, best)
        others = open_ & (places != best)
        won = (top > self.score).double() + 0.5 * (top == self.score).double()
        told = (won * others).sum(1) / others.sum(1).clamp_min(1)
        found = Measurement("auc", (label.node,), told[None])
        return found.value(label.node), found.interval(label.node)


# --- by rules: the words are the role's --------------------------------------------------------


def prediction(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """By the role's words alone: for roles that say where a head looks; others get no verdict."""
    from acdc_explain.evidence.keep_only import CLAIMS
    from acdc_explain.evidence.measurement import NotMeasurable

    for label in labels:
        if label.role not in CLAIMS or label.node.kind != "head":
            continue
        try:
            keys = CLAIMS[label.role](contrast)
            game = _claimed(keys, keys)
            shuffled = [
                _claimed(keys, CLAIMS[role](contrast)).auc(contrast, label)[0]
                for role in CLAIMS
                if role != label.role
            ]
        except NotMeasurable:
            continue
        if len(game.examples):
            change: Change = "raises" if label.role in RAISES else "lowers"
            yield _verdict("prediction", contrast, label, game, shuffled, change)


def _claimed(asked: Tensor, keys: Tensor) -> Game:
    """The rows of which one role says something, as another role foretells them."""
    examples, queries = asked.any(-1).nonzero(as_tuple=True)
    return Game(examples, queries, keys[examples, queries].double())


# --- by an LLM: the words are the label's own --------------------------------------------------


class Guess(Reply):
    """Where a head attends from one token, and what cutting it does."""

    tokens: list[int] = Field(min_length=1, max_length=NAMED)
    cutting: Change


def prediction_llm(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    session: Callable[[], Session],
    *,
    llm_model: str = "",
    questions: int = 4,
    seed: int = 0,
) -> Iterator[Verdict]:
    """An LLM that reads the label and no evidence guesses; chance is with another head's label."""
    heads = [label for label in labels if label.node.kind == "head"]
    rng = random.Random(seed)
    for label in heads:
        others = [other for other in heads if other.description != label.description]
        if not others:
            continue
        shuffled = rng.choice(others)
        found = [
            _asked(contrast, session(), words, roles, questions) for words in (label, shuffled)
        ]
        if None in found:
            yield _none(label, "prediction_llm", "the LLM gave no usable reply")
            continue
        (game, guesses), (chance, _) = found  # type: ignore[misc]
        said = [guess.cutting for guess in guesses]
        change = max(said, key=said.count)
        auc = chance.auc(contrast, label)[0]
        yield _verdict("prediction_llm", contrast, label, game, [auc], change)


def _asked(
    contrast: Contrast,
    session: Session,
    words: Label,
    roles: Mapping[str, RoleCard],
    questions: int,
) -> tuple[Game, list[Guess]] | None:
    """The LLM's guesses on some held-out prompts, from the last token; None if one is missing."""
    import torch

    from acdc_explain.llm.exchange import NotAsked, UnusableReply
    from acdc_explain.llm.session import run_async

    examples = list(range(min(questions, len(contrast))))
    prefix = len(contrast.model.prefix)

    async def guess(example: int) -> Guess:
        tokens = contrast.model.pieces(contrast.examples[example].clean)
        ask = session.ask()
        card = roles.get(words.role)
        prompt = ask.render(
            "predict",
            role=words.role,
            claim=card.claim if card else "",
            description=NODE.sub("another component", words.description),
            tokens=list(enumerate(tokens)),
            last=len(tokens) - 1,
            most=NAMED,
        )
        found, _ = await ask("predict", prompt, Guess.model_json_schema(), _reader(len(tokens)))
        return found

    async def all_of_them() -> list[Guess]:
        return list(await asyncio.gather(*map(guess, examples)))

    try:
        guesses = run_async(all_of_them, session)
    except (UnusableReply, NotAsked):
        return None
    score = torch.zeros(len(examples), contrast.clean.tokens.shape[1], dtype=torch.double)
    for row, found in enumerate(guesses):
        for place, token in enumerate(dict.fromkeys(found.tokens)):
            score[row, token + prefix] = NAMED - place
    at = torch.tensor(examples)
    return Game(at, contrast.clean.end.cpu()[at], score), guesses


def _reader(n: int) -> Callable[[str], Guess]:
    def read(reply: str) -> Guess:
        guess = Guess.model_validate_json(reply)
        if strange := [token for token in guess.tokens if not 0 <= token < n]:
            raise ValueError(f"there is no token {strange[0]}")
        return guess

    return read


# --- the verdict -------------------------------------------------------------------------------


def _verdict(
    judge: str,
    contrast: Contrast,
    label: Label,
    game: Game,
    shuffled: Sequence[float],
    change: Change,
) -> Verdict:
    from acdc_explain.evidence.effects import of_nodes

    auc, (low, high) = game.auc(contrast, label)
    chance = sorted(shuffled)[len(shuffled) // 2] if shuffled else 0.5
    cut = of_nodes("ablation_effect", contrast, [label.node])
    truth = _change(*cut.interval(label.node))
    seen = True if auc >= GOOD and low > max(chance, 0.5) else False if high < POOR else None
    told = None if truth is None else change == truth
    cutting = f"cutting it was foretold to be: {change}; it {truth or 'does too little to tell'}"
    return Verdict(
        label_id=label.id,
        judge=judge,
        outcome=_outcome(seen, told),
        score=round(auc, 5),
        chance=round(chance, 5),
        percentile=round(sum(x < auc for x in shuffled) / len(shuffled), 4) if shuffled else None,
        n=len(game.examples),
        reason=(
            f"ROC AUC {auc:.2f} [{low:.2f}, {high:.2f}] for the most attended token, "
            f"{chance:.2f} by other labels' words; {cutting}"
        ),
    )


def _change(low: float, high: float) -> Change | None:
    """What the share that is lost says; None if the interval leaves it open."""
    return "lowers" if low > 0 else "raises" if high < 0 else None


def _outcome(seen: bool | None, told: bool | None) -> Outcome:
    """Whether the attention and the change of the metric are as foretold."""
    if seen is None:
        return "inconclusive"
    if seen:
        return "pattern_only" if told is False else "supported" if told else "inconclusive"
    return "causal_only" if told else "refuted"


def _none(label: Label, judge: str, reason: str) -> Verdict:
    return Verdict(label.id, judge, "inconclusive", None, None, None, 0, reason)


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {
        "prediction": Judge(prediction, on_request=True),
        "prediction_llm": Judge(prediction_llm, on_request=True, asks_llm=True),
    }
