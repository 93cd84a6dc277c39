"""Judge `transfer`: does the role's card hold under other corruptions of the held-out prompts?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.verdict import Outcome, Verdict

from .role_card import Test, deciding_of, null_nodes, outcome_of, tests_of

if TYPE_CHECKING:
    from acdc_explain.label import Label
    from acdc_explain.role import RoleCard
    from acdc_explain.subject import Subject

SILENT = 0.5  # of a causal test's bound: less, and the corruption does not reach the component


def transfer(
    subject: Subject, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """`supported` if a second scheme agrees and none contradicts; `inconclusive` if they disagree.

    A scheme under which nothing happens is silent: it leaves alone what the component reads.
    Labels for which every scheme is silent, or none exists, get no verdict.
    """
    null = null_nodes(subject, seed)
    for label in labels:
        card = roles.get(label.role)
        if card is None or not card.tests("causal"):
            continue
        found = {}
        for scheme, other in subject.schemes.items():
            tests, unmeasurable = tests_of(other, label.node, card, null)
            if unmeasurable is None and not _silent(tests):
                found[scheme] = tests
        if found:
            yield _verdict(label, found)


def _silent(tests: Sequence[Test]) -> bool:
    causal = [t for t in tests if t.requirement.tier == "causal" and t.state != "holds"]
    return any(abs(test.value) <= SILENT * _bound(test) for test in causal)


def _bound(test: Test) -> float:
    requirement = test.requirement
    bounds = (requirement.at_least, requirement.at_most, requirement.away_from_zero)
    return max(abs(bound) for bound in (*bounds, 0.0) if bound is not None)


def _verdict(label: Label, found: Mapping[str, Sequence[Test]]) -> Verdict:
    outcomes = {scheme: outcome_of(tests) for scheme, tests in found.items()}
    agree = all(outcome == "supported" for outcome in outcomes.values())
    outcome: Outcome = "supported" if agree else "inconclusive"
    worst = next((s for s, o in outcomes.items() if o != "supported"), next(iter(found)))
    deciding = deciding_of(found[worst])
    return Verdict(
        label_id=label.id,
        judge="transfer",
        outcome=outcome,
        score=round(deciding.value, 5),
        chance=round(deciding.chance, 5),
        percentile=round(deciding.percentile, 4),
        n=deciding.n,
        reason="; ".join(
            f"{scheme}: {outcome} ({deciding_of(found[scheme])})"
            for scheme, outcome in outcomes.items()
        ),
    )


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"transfer": transfer}
