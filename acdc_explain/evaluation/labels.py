"""How good are the labels? They are compared with known roles and with shuffled labels.

A decoy is a component with the pattern of a role and without its effect, so a label that claims
the role is wrong. Shuffled labels are a run's labels with their roles exchanged. Judges should
support neither.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..guard import PASSED_ON, sentence
from ..pipeline.context import RunContext
from ..pipeline.flow import explain
from ..pipeline.inputs.model import load_model
from ..pipeline.prepare import open_run
from ..pipeline.settings import Settings, settings_from
from ..plugins import Plugins, pick
from ..progress import Progress, silent
from ..records.label import Label
from ..records.role import AnswerKey, KnownRoles
from ..records.verdict import worst

if TYPE_CHECKING:
    from ..records.circuit import Node
    from ..records.run.run import Run

IDLE = "attention_sink"  # true of any idle head: not counted where a node has no known role
N_BINS = 5  # of confidence


@dataclass
class Score:
    """Counts over the components and labels of one set of known roles.

    `truths` has the kind and the known roles of each component. `hits`, `misses` and `wrong` count
    the components for which a role was rightly supported, missed, and wrongly supported.
    `confidences` has, for each label, its confidence and whether its role is true.
    """

    truths: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    right: int = 0
    decoys: int = 0
    decoys_supported: int = 0
    decoys_pattern_only: int = 0
    shuffled: int = 0
    shuffled_supported: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    confidences: list[tuple[float, bool]] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def add_component(
        self, where: str, kind: str, truth: frozenset[str], supported: frozenset[str]
    ) -> None:
        """Count a component by its known roles and its supported ones."""
        self.truths.append((kind, truth))
        self.right += truth == supported
        self.hits.update(truth & supported)
        self.misses.update(truth - supported)
        self.wrong.update(supported - truth)
        if truth != supported:
            self.mistakes.append(f"{where}: {_listed(supported)} instead of {_listed(truth)}")

    def as_dict(self) -> dict[str, Any]:
        """The score as JSON.

        `majority_baseline` is the accuracy of always giving the most frequent roles,
        `kind_baseline` of giving the most frequent roles of the component's kind.
        """
        n, kinds = len(self.truths), {kind for kind, _ in self.truths}
        by_kind = [[truth for k, truth in self.truths if k == kind] for kind in kinds]
        return {
            "n": n,
            "accuracy": _share(self.right, n),
            "majority_baseline": _share(_n_most_common([truth for _, truth in self.truths]), n),
            "kind_baseline": _share(sum(map(_n_most_common, by_kind)), n),
            "decoys": self.decoys,
            "decoys_supported": self.decoys_supported,
            "decoys_pattern_only": self.decoys_pattern_only,
            "shuffled": self.shuffled,
            "shuffled_supported": self.shuffled_supported,
            "roles": {
                role: self._role(role) for role in sorted({*self.hits, *self.misses, *self.wrong})
            },
            "calibration": self._calibration(),
            "mistakes": self.mistakes,
        }

    def _role(self, role: str) -> dict[str, Any]:
        hits, misses, wrong = self.hits[role], self.misses[role], self.wrong[role]
        return {
            "n": hits + misses,
            "precision": _share(hits, hits + wrong),
            "recall": _share(hits, hits + misses),
        }

    def _calibration(self) -> list[dict[str, Any]]:
        """The share of true labels in each bin of confidence."""
        bins = []
        for low in (number / N_BINS for number in range(N_BINS)):
            high = low + 1 / N_BINS
            labels = [
                (confidence, is_true)
                for confidence, is_true in self.confidences
                if low <= confidence < high or (high == 1 and confidence == 1)
            ]
            if labels:
                bins.append(
                    {
                        "from": low,
                        "to": round(high, 3),
                        "n": len(labels),
                        "confidence": _share(sum(c for c, _ in labels), len(labels)),
                        "true": _share(sum(is_true for _, is_true in labels), len(labels)),
                    }
                )
        return bins


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _n_most_common(truths: Sequence[frozenset[str]]) -> int:
    return max(Counter(truths).values(), default=0)


def _listed(roles: Iterable[str]) -> str:
    return " and ".join(sorted(roles)) or "nothing"


def bench_labels(
    plugins: Plugins,
    names: Sequence[str] | None = None,
    progress: Progress = silent,
    settings: Settings | None = None,
) -> tuple[dict[str, Score], dict[str, str]]:
    """Label models whose roles are known, and score the labels.

    Args:
        plugins: Have the sets of known roles.
        names: Which sets to use; all that are installed by default.
        progress: Is called with how far it is.
        settings: The device and the type of the weights; None: the usual ones.

    Returns:
        The score of each set, and the reason why a set was skipped.

    Raises:
        UserError: if a set in `names` is unknown or cannot be used.
    """
    keys, scores, skipped = plugins.answer_keys(), {}, {}
    for name in names or sorted(keys):
        answer_key = pick("set of known roles", keys, name)
        try:
            scores[name] = score_labels(plugins, name, _known(name, answer_key), progress, settings)
        except (ImportError, UserError) as reason:
            if names:
                raise UserError(f"The set {name!r} cannot be used: {reason}") from reason
            skipped[name] = str(reason)
    return scores, skipped


def _known(name: str, answer_key: AnswerKey) -> Sequence[KnownRoles]:
    """A set's known roles. Raises ImportError if a package that it needs is not installed."""
    try:
        return list(answer_key())
    except (ImportError, *PASSED_ON):
        raise
    except BaseException as error:  # a plugin may raise anything
        raise UserError(f"set {name!r} of a plugin failed ({sentence(error)})") from error


def score_labels(
    plugins: Plugins,
    name: str,
    known: Sequence[KnownRoles],
    progress: Progress,
    base: Settings | None = None,
) -> Score:
    """The score of one set: each of its tasks is explained in a store of its own."""
    base = base or Settings()
    score, model = Score(), None
    with TemporaryDirectory() as folder:
        for number, answers in enumerate(known):
            progress(f"bench {name}", number, len(known), f"{answers.task} on {answers.model}")
            if model is None or model.name != answers.model:
                model = load_model(
                    answers.model, device=base.device, dtype=base.dtype, sources=plugins.models()
                )
            settings = settings_from({"labeler": "rules", **answers.settings}, base)
            store = f"{folder}/bench.duckdb"
            run = explain(answers.task, model, store=store, settings=settings)
            work = open_run(answers.task, model, store, settings, silent)
            _add_run(score, run, work, answers)
    progress(f"bench {name}", len(known), len(known))
    return score


def _add_run(score: Score, run: Run, work: RunContext, answers: KnownRoles) -> None:
    """Compare the labels of one run with the known roles."""
    where = f"{answers.task} on {answers.model}"
    for node, roles in answers.roles.items():
        truth, supported = frozenset(roles), _supported_roles(run, node)
        if not truth:
            supported -= {IDLE}
        score.add_component(f"{where}, {node}", node.kind, truth, supported)
    labels = [x for x in run.labels if x.role != "other" and x.node in answers.roles]
    score.confidences += [(x.confidence, x.role in answers.roles[x.node]) for x in labels]
    assert run.circuit is not None
    decoys = [
        Label(run.circuit.id, n, "decoy", r, (), "", 0.0, ()) for n, r in answers.decoys.items()
    ]
    outcomes = _outcomes(work, run, decoys)
    score.decoys += len(decoys)
    score.decoys_supported += sum(outcome == "supported" for outcome in outcomes.values())
    score.decoys_pattern_only += sum(outcome == "pattern_only" for outcome in outcomes.values())
    shuffled = list(_shuffled(labels, answers.roles))
    score.shuffled += len(shuffled)
    wrong = [
        label for label in shuffled if _outcomes(work, run, [label]).get(label.id) == "supported"
    ]
    score.shuffled_supported += len(wrong)
    score.mistakes += [f"{where}, {x.node}: {x.role} passed, though wrong" for x in wrong]


def _supported_roles(run: Run, node: Node) -> frozenset[str]:
    """The supported roles of a node, without `other`."""
    roles = set()
    for label in run.labels_of(node) if run.circuit and node in run.circuit.components else ():
        verdict = worst(run.verdicts_of(label))
        if verdict is not None and verdict.outcome == "supported" and label.role != "other":
            roles.add(label.role)
    return frozenset(roles)


def _shuffled(labels: Sequence[Label], known: Mapping[Node, tuple[str, ...]]) -> Iterator[Label]:
    """The labels after exchanging their roles at random; only those that are wrong now."""
    roles = [label.role for label in labels]
    random.Random(0).shuffle(roles)
    for label, role in zip(labels, roles):
        truth = known[label.node]
        if role not in truth and not (role == IDLE and not truth):
            yield replace(label, role=role, labeler="shuffled")


def _outcomes(work: RunContext, run: Run, labels: Sequence[Label]) -> dict[str, str]:
    """By label id, the worst outcome among all judges of the run."""
    claims = {label.node: run.claims_of(label.node) for label in labels}
    verdicts = [
        verdict
        for name, settings in work.plan.judges.items()
        for verdict in work.plugins.judges()[name].verdicts(
            work.held_out, labels, work.plugins.roles(), claims, **settings
        )
    ]
    outcomes: dict[str, str] = {}
    for label in labels:
        verdict = worst(v for v in verdicts if v.label_id == label.id)
        if verdict is not None:
            outcomes[label.id] = verdict.outcome
    return outcomes
