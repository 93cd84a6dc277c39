"""Verdicts -> summary: what the circuit does as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from ..guard import PluginFault
from ..labeling.summary import summary_of
from ..llm.exchange import NotAsked, UnusableReply
from ..records.circuit import Circuit
from ..records.claim import ClaimResult
from ..records.label import Label
from ..records.run.summary import Summary
from ..records.verdict import Verdict
from .context import RunContext
from .label import rules_stage, stage


def summarise(
    run: RunContext,
    circuit: Circuit,
    labels: Sequence[Label],
    verdicts: Sequence[Verdict],
    claims: Sequence[ClaimResult],
) -> tuple[Summary | None, bool]:
    """What the labeler says of the whole circuit; where it says nothing, what the rules say.

    The rules only repeat what was supported.

    Returns:
        The summary, and whether nothing is missing: False if the labeler's answer was lost on the
        way or is still to come from a batch file.
    """
    # In the order of the store: the question of a later command is the same.
    labels = sorted(labels, key=lambda label: label.id)
    verdicts = sorted(verdicts, key=lambda verdict: verdict.id)
    summary, complete = None, True
    for labeler in (stage(run), rules_stage(run)):
        if labeler is None:
            continue
        try:
            summary = summary_of(labeler, circuit, labels, verdicts, claims)
        except NotAsked:
            complete = False
        except UnusableReply as problem:
            complete = problem.exchange.reply is not None
        except PluginFault as fault:
            run.set_aside.append(str(fault))
        if summary is not None:
            run.writer.add_summary(summary)
            break
    return summary, complete
