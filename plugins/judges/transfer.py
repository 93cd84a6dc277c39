"""Judge `transfer`: are the role's requirements met under other corruptions of the prompts?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Outcome, Verdict

from .role_card import Test, deciding_of, null_nodes, outcome_of, tests_of, verdict_of

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

SILENT = 0.5  # of a causal bound; below it the corruption does not affect the component


def transfer(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """`supported` if a second scheme agrees and none contradicts; `inconclusive` if one does.

    A scheme agrees if every test holds under it, and contradicts if one fails. It has no vote
    where a test is unclear, nor where a causal test finds next to no effect: it does not change
    what the component reads. Labels without any vote get no verdict.
    """
    null = null_nodes(contrast, seed)
    for label in labels:
        card = roles.get(label.role)
        if card is None or not card.tests("causal"):
            continue
        votes = {}
        for scheme, other in contrast.schemes.items():
            tests, unmeasurable = tests_of(other, label.node, card, null)
            if unmeasurable is None and _votes(tests):
                votes[scheme] = tests
        if votes:
            yield _verdict(label, votes)


def _votes(tests: Sequence[Test]) -> bool:
    """Whether a scheme agrees with a label or contradicts it, given the tests under it."""
    failed = [test for test in tests if test.state == "fails"]
    if not failed:
        return all(test.state == "holds" for test in tests)
    causal = [test for test in failed if test.requirement.tier == "causal"]
    return not any(abs(test.value) <= SILENT * _bound(test) for test in causal)


def _bound(test: Test) -> float:
    requirement = test.requirement
    bounds = (requirement.at_least, requirement.at_most, requirement.away_from_zero)
    return max(abs(bound) for bound in (*bounds, 0.0) if bound is not None)


def _verdict(label: Label, votes: Mapping[str, Sequence[Test]]) -> Verdict:
    outcomes = {scheme: outcome_of(tests) for scheme, tests in votes.items()}
    agree = all(outcome == "supported" for outcome in outcomes.values())
    outcome: Outcome = "supported" if agree else "inconclusive"
    worst = next((s for s, o in outcomes.items() if o != "supported"), next(iter(votes)))
    reason = "; ".join(
        f"{scheme}: {outcome} ({deciding_of(votes[scheme])})"
        for scheme, outcome in outcomes.items()
    )
    return verdict_of(label, "transfer", outcome, votes[worst], reason)


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"transfer": Judge(transfer)}
