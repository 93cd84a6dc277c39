"""Does an LLM label what it is shown, or what it remembers? The same components, four ways.

blind: evidence without names. revealed: with the model's name and the true ones. permuted: with the
names of other components of the same kind. shuffled: true names, and another component's evidence.
A label that follows the index where it and the evidence disagree was recited.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..labeling.labeler import LabelingStage
from ..pipeline.flow import evidence_of, reopen
from ..pipeline.settings import Settings
from ..progress import Progress, silent
from ..records.circuit import Node
from ..records.label import LabelResult
from ..records.question import Question, true_names
from ..records.run.run import Run
from ..store.store import Store

Roles = Mapping[Node, str]


def firewall(
    run: Run, store: Store, settings: Settings, progress: Progress = silent
) -> dict[str, Any]:
    """How often labels follow the evidence, and how often the index. Raises UserError.

    Exchanges are kept, so that nothing is asked twice; labels are not.
    """
    work = reopen(run, store, settings, progress)
    assert run.circuit is not None
    labels = replace(work.labels, session=replace(work.session, cache=store.replies))
    blind = [asked.question for asked in labels.questions(run.circuit, evidence_of(run, work))]
    other = _others([question.node for question in blind], settings.seed)
    shown = true_names(run.circuit)
    evidence = {question.node: question.evidence for question in blind}
    revealed = [replace(q, shown=shown, model=run.header.model) for q in blind]
    swapped = {node: shown[other[node]] for node in shown}
    ways = {
        "blind": blind,
        "revealed": revealed,
        "permuted": [replace(question, shown=swapped) for question in revealed],
        "shuffled": [replace(q, evidence=evidence[other[q.node]]) for q in revealed],
    }
    said = {}
    for number, (name, questions) in enumerate(ways.items()):
        progress("firewall", number, len(ways), name)
        said[name] = _roles(labels, questions)
    progress("firewall", len(ways), len(ways))
    return {
        "run": run.id,
        "labeler": labels.name,
        "llm": settings.llm_model,
        "n": len(blind),
        "conditions": _counted(said, other),
        "roles": {
            str(node): {name: roles.get(node) for name, roles in said.items()} for node in shown
        },
    }


def _others(nodes: Sequence[Node], seed: int) -> dict[Node, Node]:
    """Another component of the same kind for each, where there is one."""
    found: dict[Node, Node] = {}
    for kind in ("head", "mlp"):
        same = [node for node in nodes if node.kind == kind]
        random.Random(seed).shuffle(same)
        found |= dict(zip(same, [*same[1:], *same[:1]]))
    return found


def _roles(labels: LabelingStage, questions: Sequence[Question]) -> dict[Node, str]:
    """The first role that each component is given."""
    answers: dict[str, LabelResult] = {}

    def keep(answer: LabelResult) -> None:
        answers[answer.question_id] = answer

    asked = [labels.question(question) for question in questions]
    labels.answer(asked, keep)
    return {x.question.node: answers[x.id].labels[0].role for x in asked if answers[x.id].labels}


def _counted(said: Mapping[str, Roles], other: Mapping[Node, Node]) -> dict[str, Any]:
    """What each way of asking shows; the evidence is that of the node, or in `shuffled` of its
    other, and the index the other way round."""
    blind, revealed = said["blind"], said["revealed"]
    both = [node for node in blind if node in revealed]
    same = sum(blind[node] == revealed[node] for node in both)
    return {
        "blind": {"labeled": len(blind)},
        "revealed": {"labeled": len(revealed), "as_blind": same / len(both) if both else None},
        "permuted": _followed(said["permuted"], blind, {n: revealed.get(other[n]) for n in other}),
        "shuffled": _followed(said["shuffled"], {n: blind.get(other[n]) for n in other}, revealed),
    }


def _followed(
    said: Roles, evidence: Mapping[Node, str | None], index: Mapping[Node, str | None]
) -> dict[str, int]:
    """Of the labels, those where evidence and index call for different roles."""
    decisive = [
        node
        for node in said
        if None not in (evidence.get(node), index.get(node)) and evidence[node] != index[node]
    ]
    by_evidence = sum(said[node] == evidence[node] for node in decisive)
    by_index = sum(said[node] == index[node] for node in decisive)
    return {
        "labeled": len(said),
        "decisive": len(decisive),
        "evidence": by_evidence,
        "index": by_index,
        "neither": len(decisive) - by_evidence - by_index,
    }
