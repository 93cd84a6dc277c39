"""Results as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

from ..errors import UserError
from ..output.files import check_output
from ..records.circuit import Circuit


def plot_sweep(circuits: Sequence[Circuit], title: str, file: Path) -> None:
    """Edges against faithfulness, beside random circuits of the same sizes. Raises UserError."""
    from matplotlib.figure import Figure

    circuits = sorted((c for c in circuits if c.edges), key=lambda circuit: len(circuit.edges))
    if not circuits:
        raise UserError("No circuit of the sweep kept an edge; there is nothing to draw.")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [len(circuit.edges) for circuit in circuits]
    found = [circuit.faithfulness for circuit in circuits]
    random = [nan if one.random_share is None else one.random_share for one in found]
    shares = [nan if one.share is None else one.share for one in found]
    axes.plot(sizes, shares, "o-", label=circuits[0].discoverer)
    axes.plot(sizes, random, "o--", color="grey", label="random")
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="edges", ylabel="faithfulness (held-out prompts)")
    axes.set_title(title, parse_math=False)  # a name may have dollars in it
    axes.legend()
    check_output(file)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be written as a picture: {error}.") from error
