"""Runs as text: one run in full, the list of runs, and the circuits of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ...records.run.header import USUAL_DEVICE
from .behavior import show_behavior
from .components import claims_table, components_table, n_hidden
from .costs import usage_text
from .motifs import motifs_table
from .tables import new_table, number_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...records.circuit import Circuit
    from ...records.run.run import Run
    from ...records.run.summary import Sentence
    from ...store.tables.read import Listed


CLAIMS_EXPLAINED = (
    "effect: the share of the gap that is lost when the component alone is ablated; role: one "
    "that passed its tests; reads, does: the first claim that holds on held-out prompts and is "
    "true of few other components."
)


def show_run(run: Run, out: PlainConsole, *, all_labels: bool = False) -> None:
    """Print the circuit in a few lines, a row a component, its motifs, and what it does in steps.

    Args:
        run: The run.
        out: Where to print.
        all_labels: Whether to print every label with its verdict, too.
    """
    header = run.header
    out.print(run.title, style="bold")
    lines = {"name": header.name, "note": header.note, "origin": header.origin}
    lines["device"] = None if header.device == USUAL_DEVICE else header.device
    for what, text in lines.items():
        if text is not None:
            out.print(f"{what}: {text}")
    show_behavior(run, out)
    if run.circuit is None:
        out.print("No circuit yet; repeat the same command to go on.")
        return
    _show_circuit(run.circuit, out)
    _show_components(run, out, all_labels)
    if run.motifs:
        out.print()
        out.print(motifs_table(run))
    if run.told is not None:
        out.print(
            f"\nin words (by {run.told.labeler}; sentences cite claims that hold, and are "
            "not tested themselves):"
        )
        for sentence in run.told.sentences:
            cited = "" if _names_all(sentence) else f" [{', '.join(map(str, sentence.nodes))}]"
            out.print(f"- {sentence.text}{cited}")
    if run.algorithm:
        out.print("\nstep by step (from the claims that hold on held-out prompts):")
        for number, step in enumerate(run.algorithm, start=1):
            out.print(f"{number}. {step.text}" if step.claims else step.text)
    if run.exchanges:
        out.print(f"\n{usage_text(run)}")


def _show_components(run: Run, out: PlainConsole, all_labels: bool) -> None:
    if run.coverage is None:
        if run.header.status == "done":
            out.print("coverage: no claim could be tested on this model or these prompts")
        out.print()
        out.print(components_table(run))
        return
    out.print(f"coverage: {run.coverage.in_words}")
    out.print()
    out.print(claims_table(run))
    out.print(CLAIMS_EXPLAINED)
    hidden, unlabeled = n_hidden(run), [x for x in run.components if not run.labels_of(x.node)]
    if all_labels or unlabeled:
        out.print()
        out.print(components_table(run))
    elif hidden:
        labels = "1 other label" if hidden == 1 else f"{hidden} other labels"
        out.print(f"{labels} did not pass: acdc-explain show {run.id[:8]} --all")


def _show_circuit(circuit: Circuit, out: PlainConsole) -> None:
    """Print the size of a circuit, its faithfulness and its stability."""
    out.print(f"circuit: {circuit.size_in_words}")
    out.print(circuit.faithfulness_in_words)
    if circuit.alternatives or any(edge.share is not None for edge in circuit.edges):
        out.print(_stability(circuit))
    layers = [str(node) for node in circuit.nodes if node.kind == "attn"]
    if layers:
        out.print(f"whole attention layers are not labeled, heads are: {', '.join(layers)}")


def _stability(circuit: Circuit) -> str:
    """How much of the circuit does not depend on the order in which edges were tested."""
    always = sum(edge.share == 1 for edge in circuit.edges)
    return (
        f"over all orders: {always} of {len(circuit.edges)} edges are always kept; "
        f"{len(circuit.alternatives)} other edges are kept in some order"
    )


def _names_all(sentence: Sentence) -> bool:
    """Whether a sentence names every node it cites."""
    return all(str(node) in sentence.text for node in sentence.nodes)


def show_runs(runs: Sequence[Listed], out: PlainConsole) -> None:
    """Print one row a run; name, note and origin only if a run has one."""
    columns = ["run", "task", "model", "discoverer", "labeler", "edges", "faithfulness", "status"]
    more = [x for x in ("name", "note", "origin") if any(getattr(r.header, x) for r in runs)]
    table = new_table(*columns, "created", *more)
    for run in runs:
        header = run.header
        cells = [
            header.id,
            header.task,
            header.model_as_loaded,
            _discovery(header.settings),
            str(header.settings.get("labeler", "-")),
            "-" if run.edges is None else str(run.edges),
            number_text(run.faithfulness, ".0%"),
            header.status,
            header.created_at.replace("T", " ").rstrip("Z"),
            *(getattr(header, column) or "" for column in more),
        ]
        table.add_row(*map(Text, cells))
    out.print(table)


def _discovery(settings: Mapping[str, Any]) -> str:
    """The discoverer, with the settings that decide the circuit's size and what a cut carries."""
    stored = settings.get("discoverer_settings")
    known: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    parts = [str(settings.get("discoverer", "-"))]
    parts += [f"{x} {known[x]:.4g}" for x in ("tau", "max_edges") if _is_number(known.get(x))]
    parts += [x for x in ("positions",) if known.get(x)]
    parts += [str(known["level"])] if known.get("level") not in (None, "head") else []
    ablation = settings.get("ablation", "corrupt")
    return ", ".join(parts + ([] if ablation == "corrupt" else [str(ablation)]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show_sweep(circuits: Sequence[Circuit], out: PlainConsole) -> None:
    """Print edges against faithfulness, one row a circuit."""
    table = new_table("threshold", "edges", "tested", "metric", "faithfulness", "random", "seconds")
    for circuit in circuits:
        values, tau = circuit.faithfulness, circuit.settings.get("tau")
        table.add_row(
            f"tau {tau:.4g}" if tau is not None else f"{circuit.settings['max_edges']} edges",
            str(len(circuit.edges)),
            str(circuit.n_edges_tested),
            f"{values.circuit:.3f}",
            number_text(values.share, ".0%"),
            number_text(values.random_share, ".0%"),
            f"{circuit.seconds:.1f}",
        )
    out.print(table)
