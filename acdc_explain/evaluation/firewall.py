"""The memorization firewall: does an LLM label the evidence, or does it recite what it remembers?

The same components are labeled under four conditions:

- blind: the evidence without names.
- revealed: with the model's name and the components' true names.
- permuted: with the names of other components of the same kind.
- shuffled: with the true names, and the evidence of another component.

Where evidence and index (layer and number) point to different roles, a label that follows the
index was recited.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..labeling.labeler import LabelingStage
from ..pipeline.flow import evidence_of
from ..pipeline.label import stage
from ..pipeline.prepare import reopen
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
    """Count how often an LLM's labels follow the evidence, and how often the index.

    Exchanges with the LLM are stored, so that no request is sent twice; labels are not stored.

    Args:
        run: The run whose components are labeled.
        store: Where the run is.
        settings: The labeler, the LLM, and the seed of the permutation.
        progress: Is called with how far it is.

    Returns:
        The counts for each condition, and the role of each component under each, as JSON.

    Raises:
        UserError: if the run cannot be labeled again, or the LLM cannot be asked.
    """
    work = reopen(run, store, settings, progress)
    assert run.circuit is not None
    labeling = stage(work, replace(work.session, cache=store.replies))
    blind = [keyed.question for keyed in labeling.questions(run.circuit, evidence_of(run, work))]
    partners = _partners([question.node for question in blind], settings.seed)
    conditions = _conditions(blind, partners, true_names(run.circuit), run.header.model)
    roles = {}
    for number, (name, questions) in enumerate(conditions.items()):
        progress("firewall", number, len(conditions), name)
        roles[name] = _first_roles(labeling, questions)
    progress("firewall", len(conditions), len(conditions))
    return {
        "run": run.id,
        "labeler": labeling.name,
        "llm": settings.llm_model,
        "n": len(blind),
        "conditions": _counts(roles, partners),
        "roles": {
            str(node): {name: by_node.get(node) for name, by_node in roles.items()}
            for node in run.circuit.components
        },
    }


def _partners(nodes: Sequence[Node], seed: int) -> dict[Node, Node]:
    """For each node another one of the same kind, if there is one; else the node itself."""
    partners: dict[Node, Node] = {}
    for kind in ("head", "mlp"):
        same_kind = [node for node in nodes if node.kind == kind]
        random.Random(seed).shuffle(same_kind)
        partners |= dict(zip(same_kind, [*same_kind[1:], *same_kind[:1]]))
    return partners


def _conditions(
    blind: Sequence[Question], partners: Mapping[Node, Node], names: Mapping[Node, str], model: str
) -> dict[str, Sequence[Question]]:
    """The questions under each condition."""
    evidence = {question.node: question.evidence for question in blind}
    revealed = [replace(question, shown=names, model=model) for question in blind]
    permuted = {node: names[partners[node]] for node in names}
    return {
        "blind": blind,
        "revealed": revealed,
        "permuted": [replace(question, shown=permuted) for question in revealed],
        "shuffled": [replace(q, evidence=evidence[partners[q.node]]) for q in revealed],
    }


def _first_roles(stage: LabelingStage, questions: Sequence[Question]) -> dict[Node, str]:
    """The first role that the labeler proposes for each component that it labels."""
    results: dict[str, LabelResult] = {}

    def keep(result: LabelResult) -> None:
        results[result.question_id] = result

    keyed = [stage.question(question) for question in questions]
    stage.answer(keyed, keep)
    return {x.question.node: results[x.id].labels[0].role for x in keyed if results[x.id].labels}


def _counts(roles: Mapping[str, Roles], partners: Mapping[Node, Node]) -> dict[str, Any]:
    """What the labels under each condition follow.

    The role that the evidence points to is the one of the blind condition; the role that the index
    points to is the one of the revealed condition. In `permuted`, a node has its own evidence and
    its partner's index; in `shuffled`, its own index and its partner's evidence.
    """
    blind, revealed = roles["blind"], roles["revealed"]
    in_both = [node for node in blind if node in revealed]
    n_same = sum(blind[node] == revealed[node] for node in in_both)
    index = {node: revealed.get(partner) for node, partner in partners.items()}
    evidence = {node: blind.get(partner) for node, partner in partners.items()}
    return {
        "blind": {"labeled": len(blind)},
        "revealed": {
            "labeled": len(revealed),
            "as_blind": n_same / len(in_both) if in_both else None,
        },
        "permuted": _followed(roles["permuted"], blind, index),
        "shuffled": _followed(roles["shuffled"], evidence, revealed),
    }


def _followed(
    roles: Roles, by_evidence: Mapping[Node, str | None], by_index: Mapping[Node, str | None]
) -> dict[str, int]:
    """How many labels follow the evidence and the index, where these point to different roles."""
    decisive = [
        node
        for node in roles
        if None not in (by_evidence.get(node), by_index.get(node))
        and by_evidence[node] != by_index[node]
    ]
    n_evidence = sum(roles[node] == by_evidence[node] for node in decisive)
    n_index = sum(roles[node] == by_index[node] for node in decisive)
    return {
        "labeled": len(roles),
        "decisive": len(decisive),
        "evidence": n_evidence,
        "index": n_index,
        "neither": len(decisive) - n_evidence - n_index,
    }
