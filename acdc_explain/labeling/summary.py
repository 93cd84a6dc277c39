"""Verdicts and tested claims -> a summary: the labeler says what the whole circuit does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..guard import PASSED_ON, PluginFault
from ..llm.exchange import NotAsked, UnusableReply
from ..llm.session import run_async
from ..records.circuit import Circuit
from ..records.claim import ClaimResult
from ..records.label import Label
from ..records.run.summary import Summary, SummaryQuestion
from ..records.verdict import Verdict
from .checked import check_sentences
from .labeler import LabelingStage
from .language import Language


def summary_of(
    stage: LabelingStage,
    circuit: Circuit,
    labels: Sequence[Label],
    verdicts: Sequence[Verdict],
    results: Sequence[ClaimResult],
) -> Summary | None:
    """Have a labeler describe what the whole circuit does.

    Args:
        stage: The labeler with all it needs.
        circuit: The circuit.
        labels: The labels of its components.
        verdicts: The verdicts on the labels.
        results: The tested claims about the components.

    Returns:
        The summary; None if there are no labels, or the labeler has nothing to say.

    Raises:
        UnusableReply: if the LLM gave no usable reply.
        NotAsked: if the LLM was not asked.
        PluginFault: if the labeler failed.
    """
    summarise = stage.labeler.summarise
    if summarise is None or not labels:
        return None
    shown = stage.shown_names(circuit)
    language = Language(stage.about(circuit, circuit.components[0], shown))
    question = _question(stage, circuit, labels, verdicts, results, language)
    ask = stage.ask()
    try:
        reply, exchange = run_async(lambda: summarise(question, ask), stage.session)
        sentences = check_sentences(reply, set(circuit.components))
    except (*PASSED_ON, UnusableReply, NotAsked):
        raise
    except BaseException as error:  # a plugin may raise anything
        raise PluginFault(stage.fault(error)) from error
    if not sentences:
        return None
    renamed = tuple(replace(x, text=language.true_text(x.text)) for x in sentences)
    return Summary(stage.writer.run_id, stage.name, renamed, exchange.id if exchange else None)


def _question(
    stage: LabelingStage,
    circuit: Circuit,
    labels: Sequence[Label],
    verdicts: Sequence[Verdict],
    results: Sequence[ClaimResult],
    language: Language,
) -> SummaryQuestion:
    known = [x for x in results if x.explains and x.claim.name in stage.kinds]
    return SummaryQuestion.of(
        circuit,
        stage.task.description,
        labels,
        verdicts,
        {name: card.claim for name, card in stage.roles.items()},
        stage.shown_names(circuit),
        results=known,
        said={x.claim.id: language.says(x.claim) for x in known},
        blind=not stage.revealed,
    )
