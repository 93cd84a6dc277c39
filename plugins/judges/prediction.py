"""Judges `prediction` and `prediction_llm`: what can be predicted from a label's words alone?

A predictor that reads the label, and no evidence, predicts where the head attends on held-out
prompts and whether ablating it raises or lowers the metric (Bills et al. 2023, for neurons).
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
from .verdicts import share_below, upper_median, without_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.llm.session import Session
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

GOOD, POOR = 0.75, 0.6  # ROC AUC; guessing gives 0.5
RAISES = ("negative_name_mover",)  # ablating it raises the metric; any other role lowers it
MOST_TOKENS = 3  # tokens that the LLM may name, the likeliest first
NODE = re.compile(r"\b(?:a\d+\.h\d+|m\d+)\b")

Change = Literal["raises", "lowers", "neither"]


@dataclass(frozen=True)
class Game:
    """A prediction of some rows of a head's attention pattern, on the CPU.

    Attributes:
        examples: The example of each row [row].
        queries: The query position of each row [row].
        score: The predicted attention, in any unit [row key].
    """

    examples: Tensor
    queries: Tensor
    score: Tensor

    def auc(self, contrast: Contrast, label: Label) -> tuple[float, tuple[float, float]]:
        """How well the score separates the most attended key of each row from the other keys.

        The first token is left out, because heads without anything to do attend to it.

        Returns:
            The mean ROC AUC over rows, and its bootstrap 95 % interval.
        """
        import torch

        from acdc_explain.evidence.measurement import Measurement

        rows = contrast.once(_pattern, label.node)[self.examples, self.queries]
        keys = torch.arange(rows.shape[1])
        first = max(1, len(contrast.model.prefix))
        candidates = (keys >= first) & (keys <= self.queries[:, None])
        best = rows.masked_fill(~candidates, -1).argmax(1, keepdim=True)
        top = self.score.gather(1, best)
        others = candidates & (keys != best)
        wins = (top > self.score).double() + 0.5 * (top == self.score).double()
        row_auc = (wins * others).sum(1) / others.sum(1).clamp_min(1)
        measurement = Measurement("auc", (label.node,), row_auc[None])
        return measurement.value(label.node), measurement.interval(label.node)


def _pattern(contrast: Contrast, node: Node) -> Tensor:
    """A head's attention [batch query key], on the CPU."""
    from acdc_explain.models.activations import head_index

    layer, head = head_index(node)
    return contrast.clean_run.patterns[layer, :, head].cpu()


# --- by rules, from the role's words -----------------------------------------------------------


def prediction(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """Predict from the role alone: for roles that say where a head attends; others get no verdict.

    Chance is the prediction from each of the other roles.
    """
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.patching.keep_only import CLAIMS

    for label in labels:
        if label.role not in CLAIMS or label.node.kind != "head":
            continue
        try:
            claims = contrast.once(_claims)
            keys = claims[label.role]
            game = _claimed(keys, keys)
            shuffled = [
                _claimed(keys, others).auc(contrast, label)[0]
                for role, others in claims.items()
                if role != label.role
            ]
        except NotMeasurable:
            continue
        if len(game.examples):
            change: Change = "raises" if label.role in RAISES else "lowers"
            yield _verdict("prediction", contrast, label, game, shuffled, change)


def _claims(contrast: Contrast) -> dict[str, Tensor]:
    """By role, the keys that a head of that role attends to [batch query key], on the CPU."""
    from acdc_explain.evidence.patching.keep_only import CLAIMS

    return {role: keys(contrast).cpu() for role, keys in CLAIMS.items()}


def _claimed(claimed: Tensor, keys: Tensor) -> Game:
    """The rows that one role makes a claim about, as another role (`keys`) predicts them."""
    examples, queries = claimed.any(-1).nonzero(as_tuple=True)
    return Game(examples, queries, keys[examples, queries].double())


# --- by an LLM, from the label's words ---------------------------------------------------------


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
    questions: int = 4,
    seed: int = 0,
) -> Iterator[Verdict]:
    """An LLM predicts from the label alone; chance is its prediction from another head's label.

    Args:
        session: Opens the session in which the LLM is asked.
        llm_model: The LLM, as part of what identifies a verdict.
        questions: Held-out prompts to ask about, for each label.
    """
    heads = [label for label in labels if label.node.kind == "head"]
    rng = random.Random(seed)
    for label in heads:
        others = [other for other in heads if other.description != label.description]
        if not others:
            continue
        shuffled = rng.choice(others)
        predictions = [
            _predicted(contrast, session(), words, roles, questions) for words in (label, shuffled)
        ]
        if None in predictions:
            yield without_numbers(label, "prediction_llm", "the LLM gave no usable reply")
            continue
        (game, guesses), (chance, _) = predictions  # type: ignore[misc]
        changes = [guess.cutting for guess in guesses]
        change = max(changes, key=changes.count)
        auc = chance.auc(contrast, label)[0]
        yield _verdict("prediction_llm", contrast, label, game, [auc], change)


def _predicted(
    contrast: Contrast,
    session: Session,
    words: Label,
    roles: Mapping[str, RoleCard],
    questions: int,
) -> tuple[Game, list[Guess]] | None:
    """What the LLM predicts for the last token of some held-out prompts; None without a reply."""
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
            most=MOST_TOKENS,
        )
        reply, _ = await ask("predict", prompt, Guess.model_json_schema(), _reader(len(tokens)))
        return reply

    async def all_of_them() -> list[Guess]:
        return list(await asyncio.gather(*map(guess, examples)))

    try:
        guesses = run_async(all_of_them, session)
    except (UnusableReply, NotAsked):
        return None
    score = torch.zeros(len(examples), contrast.clean.tokens.shape[1], dtype=torch.double)
    for row, reply in enumerate(guesses):
        for rank, token in enumerate(dict.fromkeys(reply.tokens)):
            score[row, token + prefix] = MOST_TOKENS - rank
    rows = torch.tensor(examples)
    return Game(rows, contrast.clean.end.cpu()[rows], score), guesses


def _reader(n: int) -> Callable[[str], Guess]:
    """Reads a reply about a prompt of `n` tokens. Raises ValueError if it is unusable."""

    def read(reply: str) -> Guess:
        guess = Guess.model_validate_json(reply)
        if unknown := [token for token in guess.tokens if not 0 <= token < n]:
            raise ValueError(f"there is no token {unknown[0]}")
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
    chance = upper_median(shuffled) if shuffled else 0.5
    effect = of_nodes("ablation_effect", contrast, [label.node])
    truth = _change(*effect.interval(label.node))
    attention: bool | None = None  # whether the attention is as predicted; None if that is unclear
    if auc >= GOOD and low > max(chance, 0.5):
        attention = True
    elif high < POOR:
        attention = False
    causal = None if truth is None else change == truth
    cutting = f"predicted change when it is cut: {change}; measured: {truth or 'too small to tell'}"
    return Verdict(
        label_id=label.id,
        judge=judge,
        outcome=_outcome(attention, causal),
        score=round(auc, 5),
        chance=round(chance, 5),
        percentile=round(share_below(auc, shuffled), 4) if shuffled else None,
        n=len(game.examples),
        reason=(
            f"ROC AUC {auc:.2f} [{low:.2f}, {high:.2f}] for the most attended token, "
            f"{chance:.2f} by other labels' words; {cutting}"
        ),
    )


def _change(low: float, high: float) -> Change | None:
    """How ablation changes the metric, from the interval of the share lost; None if unclear."""
    return "lowers" if low > 0 else "raises" if high < 0 else None


def _outcome(attention: bool | None, causal: bool | None) -> Outcome:
    """The outcome, from whether attention and the change of the metric are as predicted."""
    if attention is None:
        return "inconclusive"
    if attention:
        return "pattern_only" if causal is False else "supported" if causal else "inconclusive"
    return "causal_only" if causal else "refuted"


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {
        "prediction": Judge(prediction, on_request=True),
        "prediction_llm": Judge(prediction_llm, on_request=True, asks_llm=True),
    }
