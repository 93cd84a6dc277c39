"""How good are the labels? Against models whose roles are known, and against shuffled labels."""

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
from ..pipeline.prepare import load_model, open_run, settings_from
from ..plugins import Plugins, pick
from ..progress import Progress, silent
from ..records.label import Label
from ..records.role import AnswerKey, KnownRoles
from ..records.verdict import worst

if TYPE_CHECKING:
    from ..records.circuit import Node
    from ..records.run.run import Run

IDLE = "attention_sink"  # true of any head that rests: not counted where nothing is known to act
BINS = 5  # of confidence


@dataclass
class Score:
    """Labels of one set of known roles, counted."""

    truths: list[tuple[str, frozenset[str]]] = field(default_factory=list)  # kind, roles
    right: int = 0
    decoys: int = 0
    decoys_supported: int = 0
    decoys_pattern_only: int = 0
    shuffled: int = 0
    shuffled_supported: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    confidences: list[tuple[float, bool]] = field(default_factory=list)  # of labels; is it true
    mistakes: list[str] = field(default_factory=list)

    def component(self, where: str, kind: str, truth: frozenset[str], said: frozenset[str]) -> None:
        self.truths.append((kind, truth))
        self.right += truth == said
        self.hits.update(truth & said)
        self.misses.update(truth - said)
        self.wrong.update(said - truth)
        if truth != said:
            self.mistakes.append(f"{where}: {_roles(said)} instead of {_roles(truth)}")

    def as_dict(self) -> dict[str, Any]:
        n, kinds = len(self.truths), {kind for kind, _ in self.truths}
        by_kind = [[truth for k, truth in self.truths if k == kind] for kind in kinds]
        return {
            "n": n,
            "accuracy": _share(self.right, n),
            "majority_baseline": _share(_most([truth for _, truth in self.truths]), n),
            "kind_baseline": _share(sum(map(_most, by_kind)), n),
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
        """How often labels proposed with a confidence are true."""
        found = []
        for low in (number / BINS for number in range(BINS)):
            high = low + 1 / BINS
            here = [x for x in self.confidences if low <= x[0] < high or (high == 1 and x[0] == 1)]
            if here:
                found.append(
                    {
                        "from": low,
                        "to": round(high, 3),
                        "n": len(here),
                        "confidence": _share(sum(c for c, _ in here), len(here)),
                        "true": _share(sum(true for _, true in here), len(here)),
                    }
                )
        return found


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _most(truths: Sequence[frozenset[str]]) -> int:
    return max(Counter(truths).values(), default=0)


def _roles(roles: Iterable[str]) -> str:
    return " and ".join(sorted(roles)) or "nothing"


def bench_labels(
    plugins: Plugins, names: Sequence[str] | None = None, progress: Progress = silent
) -> tuple[dict[str, Score], dict[str, str]]:
    """The score of every answer key, and why others were left out. Raises UserError."""
    keys, scores, skipped = plugins.answer_keys(), {}, {}
    for name in names or sorted(keys):
        answers = pick("set of known roles", keys, name)
        try:
            scores[name] = _score(plugins, name, _known(name, answers), progress)
        except (ImportError, UserError) as reason:
            if names:
                raise UserError(f"The set {name!r} cannot be had: {reason}") from reason
            skipped[name] = str(reason)
    return scores, skipped


def _known(name: str, answers: AnswerKey) -> Sequence[KnownRoles]:
    try:
        return list(answers())
    except ImportError:  # what it needs is not installed
        raise
    except PASSED_ON:
        raise
    except BaseException as error:  # a plugin may raise anything
        raise UserError(f"set {name!r} of a plugin failed ({sentence(error)})") from error


def _score(plugins: Plugins, name: str, known: Sequence[KnownRoles], progress: Progress) -> Score:
    score, model = Score(), None
    with TemporaryDirectory() as folder:
        for number, answers in enumerate(known):
            progress(f"bench {name}", number, len(known), f"{answers.task} on {answers.model}")
            if model is None or model.name != answers.model:
                model = load_model(answers.model, sources=plugins.models())
            settings = settings_from({"labeler": "rules", **answers.settings})
            store = f"{folder}/bench.duckdb"
            run = explain(answers.task, model, store=store, settings=settings)
            work = open_run(answers.task, model, store, settings, silent)
            _count(score, run, work, answers)
    progress(f"bench {name}", len(known), len(known))
    return score


def _count(score: Score, run: Run, work: RunContext, answers: KnownRoles) -> None:
    """Compare the labels of one run with what is known."""
    passed = {node: _supported(run, node) for node in answers.roles}
    for node, roles in answers.roles.items():
        truth, said = frozenset(roles), passed[node]
        if not truth:
            said -= {IDLE}
        score.component(f"{answers.task} on {answers.model}, {node}", node.kind, truth, said)
    labels = [x for x in run.labels if x.role != "other" and x.node in answers.roles]
    score.confidences += [(x.confidence, x.role in answers.roles[x.node]) for x in labels]
    assert run.circuit is not None
    claims = [
        Label(run.circuit.id, n, "decoy", r, (), "", 0.0, ()) for n, r in answers.decoys.items()
    ]
    outcomes = _judged(work, claims)
    score.decoys += len(claims)
    score.decoys_supported += sum(outcome == "supported" for outcome in outcomes.values())
    score.decoys_pattern_only += sum(outcome == "pattern_only" for outcome in outcomes.values())
    shuffled = list(_shuffled(labels, answers.roles))
    score.shuffled += len(shuffled)
    wrong = [label for label in shuffled if _judged(work, [label]).get(label.id) == "supported"]
    score.shuffled_supported += len(wrong)
    score.mistakes += [
        f"{answers.task} on {answers.model}, {x.node}: {x.role} passed, though wrong" for x in wrong
    ]


def _supported(run: Run, node: Node) -> frozenset[str]:
    """The roles that a node was granted."""
    found = set()
    for label in run.labels_of(node) if run.circuit and node in run.circuit.components else ():
        verdict = worst(run.verdicts_of(label))
        if verdict is not None and verdict.outcome == "supported" and label.role != "other":
            found.add(label.role)
    return frozenset(found)


def _shuffled(labels: Sequence[Label], known: Mapping[Node, tuple[str, ...]]) -> Iterator[Label]:
    """The same labels with their roles dealt out anew, those alone that are wrong now."""
    roles = [label.role for label in labels]
    random.Random(0).shuffle(roles)
    for label, role in zip(labels, roles):
        truth = known[label.node]
        if role not in truth and not (role == IDLE and not truth):
            yield replace(label, role=role, labeler="shuffled")


def _judged(work: RunContext, labels: Sequence[Label]) -> dict[str, str]:
    """The outcome for each label, of all judges of the run together."""
    verdicts = [
        verdict
        for name, settings in work.plan.judges.items()
        for verdict in work.plugins.judges()[name].function(
            work.held_out, labels, work.plugins.roles(), **settings
        )
    ]
    found: dict[str, str] = {}
    for label in labels:
        verdict = worst(v for v in verdicts if v.label_id == label.id)
        if verdict is not None:
            found[label.id] = verdict.outcome
    return found
