"""The picture of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

from ..errors import UserError
from ..output.files import check_output
from ..records.circuit import Circuit


def plot_sweep(circuits: Sequence[Circuit], title: str, file: Path) -> None:
    """Plot faithfulness by number of edges, with random circuits of the same sizes.

    Args:
        circuits: The circuits of a sweep; those without edges are left out.
        title: The title of the picture.
        file: The file to write, in any format that matplotlib knows by its ending.

    Raises:
        UserError: if no circuit has an edge, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    circuits = sorted((c for c in circuits if c.edges), key=lambda circuit: len(circuit.edges))
    if not circuits:
        raise UserError("No circuit of the sweep kept an edge; there is nothing to draw.")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [len(circuit.edges) for circuit in circuits]
    values = [circuit.faithfulness for circuit in circuits]
    random = [nan if x.random_share is None else x.random_share for x in values]
    shares = [nan if x.share is None else x.share for x in values]
    axes.plot(sizes, shares, "o-", label=circuits[0].discoverer)
    axes.plot(sizes, random, "o--", color="grey", label="random")
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="edges", ylabel="faithfulness (held-out prompts)")
    axes.set_title(title, parse_math=False)  # a name may contain dollar signs
    axes.legend()
    check_output(file)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be written as a picture: {error}.") from error
