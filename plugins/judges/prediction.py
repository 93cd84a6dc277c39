"""Judge `prediction`: what can be predicted from what a label claims?

A predictor that reads the label, and no evidence, predicts where the head attends on held-out
prompts and whether ablating it raises or lowers the metric (Bills et al. 2023, for neurons).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.role import LEAST_EFFECT
from acdc_explain.records.verdict import Outcome, Verdict

from .verdicts import said_by, share_below, upper_median

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import Claim, ClaimsOf
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

GOOD, POOR = 0.75, 0.6  # ROC AUC; guessing gives 0.5
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


# --- by rules, from the claims -----------------------------------------------------------------

Attended = tuple[str, str]  # the position that a head attends from, and what it attends to


def prediction(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    claims: ClaimsOf,
    *,
    seed: int = 0,
) -> Iterator[Verdict]:
    """Predict from what a label claims that a head attends to; labels without it get no verdict.

    Chance is the prediction, for the same tokens, from what labels of other roles claim.
    """
    labels = list(labels)
    said = {label: said_by(label, roles, claims) for label in labels if label.node.kind == "head"}
    attended = {label: _attended(some) for label, some in said.items()}
    for label, pairs in attended.items():
        game = _game(contrast, pairs, [to for _, to in pairs])
        if game is None:
            continue
        others = {
            to
            for other, some in attended.items()
            if other.role != label.role
            for _, to in some
            if to not in {own for _, own in pairs}
        }
        games = [_game(contrast, pairs, [to]) for to in sorted(others)]
        shuffled = [other.auc(contrast, label)[0] for other in games if other is not None]
        yield game_verdict(
            "prediction", contrast, label, game, shuffled, _predicted_change(said[label])
        )


def _attended(claims: Iterable[Claim]) -> list[Attended]:
    pairs = [
        (str(c.arguments["at"]), str(c.arguments["to"])) for c in claims if c.name == "attends"
    ]
    return list(dict.fromkeys(pairs))


def _game(contrast: Contrast, claimed: Sequence[Attended], keys: Sequence[str]) -> Game | None:
    """The rows that claims speak of, as keys predict them; None if there are none."""
    import torch

    from acdc_explain.claims.keys import keys_at
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.patching.edges import tokens_at

    rows: dict[tuple[int, int], Tensor] = {}
    for at, to in claimed:
        try:
            named = keys_at(contrast, at, to).any(-1)
            predicted = torch.stack([keys_at(contrast, at, key) for key in keys]).any(0).cpu()
        except NotMeasurable:
            continue
        tokens = contrast.once(tokens_at, at)
        index = tokens.index.cpu()
        for example, token in (named & tokens.valid).cpu().nonzero().tolist():
            rows[example, int(index[example, token])] = predicted[example, token].double()
    if not rows:
        return None
    examples, queries = zip(*rows)
    return Game(torch.tensor(examples), torch.tensor(queries), torch.stack(list(rows.values())))


SIGNS = {
    ("raises", "answers"): 1,
    ("lowers", "foils"): 1,
    ("lowers", "answers"): -1,
    ("raises", "foils"): -1,
}


def _predicted_change(claims: Iterable[Claim]) -> Change:
    """What ablation does to the metric by the claims on what the head does; most of them help."""
    total = 0
    for claim in claims:
        by, what = claim.arguments.get("by"), str(claim.arguments.get("what"))
        total += SIGNS.get((claim.name, what), 0)
        if claim.name == "feeds" and not claim.arguments.get("key") and by is not None:
            total += 1 if by > 0 else -1
    return "raises" if total < 0 else "lowers"


# --- the verdict -------------------------------------------------------------------------------


def game_verdict(
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
    """How ablation changes the metric, from the interval of the share lost.

    None if that is unclear, or less than counts as an effect.
    """
    return "lowers" if low > LEAST_EFFECT else "raises" if high < -LEAST_EFFECT else None


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
        "prediction": Judge(prediction, on_request=True, reads_claims=True),
    }
