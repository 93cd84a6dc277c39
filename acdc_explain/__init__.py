"""From a behavior of a language model to a labeled, tested and searchable circuit.

Everything that users and plugin authors need is a name of this package; `dir(acdc_explain)` lists
them, and `help(acdc_explain.explain)` says what each takes, returns and raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import UserError as UserError
    from .evaluation.stability import stability as stability
    from .experiments.attention import attention as attention
    from .experiments.contrasts import contrast as contrast
    from .experiments.contrasts import find_circuit as find_circuit
    from .experiments.patching import ablate as ablate
    from .experiments.patching import cut as cut
    from .experiments.patching import path_patch as path_patch
    from .hookspecs import ClaimKind as ClaimKind
    from .hookspecs import Discoverer as Discoverer
    from .hookspecs import Judge as Judge
    from .hookspecs import Labeler as Labeler
    from .hookspecs import hookimpl as hookimpl
    from .models.contrast import Contrast as Contrast
    from .models.model import Model as Model
    from .pipeline.discover import sweep as sweep
    from .pipeline.flow import explain as explain
    from .pipeline.flow import judge as judge
    from .pipeline.flow import label as label
    from .pipeline.inputs.model import load_model as load_model
    from .pipeline.settings import Settings as Settings
    from .records.circuit import Circuit as Circuit
    from .records.circuit import Edge as Edge
    from .records.circuit import Node as Node
    from .records.claim import Claim as Claim
    from .records.claim import ClaimResult as ClaimResult
    from .records.claim import Coverage as Coverage
    from .records.evidence import Evidence as Evidence
    from .records.graph import Discovery as Discovery
    from .records.label import Label as Label
    from .records.label import LabelerReply as LabelerReply
    from .records.label import Proposal as Proposal
    from .records.question import Question as Question
    from .records.role import KnownRoles as KnownRoles
    from .records.role import Requirement as Requirement
    from .records.role import RoleCard as RoleCard
    from .records.role import RoleClaim as RoleClaim
    from .records.run.run import Run as Run
    from .records.run.summary import Sentence as Sentence
    from .records.task import Example as Example
    from .records.task import Task as Task
    from .records.task import Tokenizer as Tokenizer
    from .records.verdict import Verdict as Verdict
    from .report.comparison import compare as compare
    from .report.notebook import draw as draw
    from .report.notebook import write_report as write_report
    from .store.motifs import motifs as motifs
    from .store.store import Store as Store

_MODULES = {
    "ablate": "experiments.patching",
    "attention": "experiments.attention",
    "compare": "report.comparison",
    "contrast": "experiments.contrasts",
    "cut": "experiments.patching",
    "draw": "report.notebook",
    "explain": "pipeline.flow",
    "find_circuit": "experiments.contrasts",
    "hookimpl": "hookspecs",
    "judge": "pipeline.flow",
    "label": "pipeline.flow",
    "load_model": "pipeline.inputs.model",
    "motifs": "store.motifs",
    "path_patch": "experiments.patching",
    "stability": "evaluation.stability",
    "sweep": "pipeline.discover",
    "write_report": "report.notebook",
    "Circuit": "records.circuit",
    "Claim": "records.claim",
    "ClaimKind": "hookspecs",
    "ClaimResult": "records.claim",
    "Contrast": "models.contrast",
    "Coverage": "records.claim",
    "Discoverer": "hookspecs",
    "Discovery": "records.graph",
    "Edge": "records.circuit",
    "Evidence": "records.evidence",
    "Example": "records.task",
    "Judge": "hookspecs",
    "KnownRoles": "records.role",
    "Label": "records.label",
    "Labeler": "hookspecs",
    "LabelerReply": "records.label",
    "Model": "models.model",
    "Node": "records.circuit",
    "Proposal": "records.label",
    "Question": "records.question",
    "Requirement": "records.role",
    "RoleCard": "records.role",
    "RoleClaim": "records.role",
    "Run": "records.run.run",
    "Sentence": "records.run.summary",
    "Settings": "pipeline.settings",
    "Store": "store.store",
    "Task": "records.task",
    "Tokenizer": "records.task",
    "UserError": "errors",
    "Verdict": "records.verdict",
}
"""Where each public name is defined. It is imported when it is first asked for: torch and duckdb
are slow to import, and a plugin that only brings a task needs neither."""

_MAKERS = ("store", "experiments", "pipeline", "evaluation")  # rooms that return circuits and runs

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("acdc-explain")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = _MODULES[name]
    if module.split(".")[0] in _MAKERS or name in ("Circuit", "Run"):
        import_module(".report.notebook", __name__)  # so that notebooks draw them
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
