"""How the cost of ACDC grows with layers, heads and tokens: `python benchmarks/growth.py -o F.png`.

Models like SmolLM2 with random weights, of which one size grows at a time. To compare circuits of
about the same size, tau falls by a fifth from search to search until enough edges are kept; the
last search is shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.discovery import measure
from benchmarks.shapes import random_model

SMALL = {"num_hidden_layers": 4, "hidden_size": 192, "intermediate_size": 512, "vocab_size": 2048}
SMALL |= {"num_attention_heads": 3, "num_key_value_heads": 3}
GROWING: dict[str, list[tuple[int, dict[str, int], int]]] = {
    "layers": [(n, {"num_hidden_layers": n}, 16) for n in (4, 8, 16, 30)],
    "heads": [
        (n, {"num_attention_heads": n, "num_key_value_heads": n, "hidden_size": 64 * n}, 16)
        for n in (3, 6, 12)
    ],
    "tokens": [(n, {}, n) for n in (8, 16, 32, 64)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="stop each search after this")
    parser.add_argument("--kept", type=int, default=40, help="least number of edges in a circuit")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for what, steps in GROWING.items():
        for n, sizes, length in steps:
            result = measure_size(random_model("llama", **{**SMALL, **sizes}), length, args)
            rows.append({"what": what, "n": n, **result})
            print(
                f"{what:>8} {n:>3}: {result['edges']} edges, {result['tested']} tested, "
                f"{result['kept']} kept at tau {result['tau']:.2g}, {result['seconds']} s, "
                f"{result['forwards_per_edge']} forward passes per edge"
                f"{'' if result['complete'] else ' (stopped)'}",
                flush=True,
            )
    draw(rows, args.output)


def measure_size(model: Any, length: int, args: argparse.Namespace) -> dict[str, Any]:
    """The first search that keeps enough edges, or that is stopped."""
    gap = 1.0
    while True:
        gap *= 0.8
        options = argparse.Namespace(
            model="llama", metric="logit_diff", tau=None, gap=gap, length=length, sample=0,
            seconds=args.seconds,
        )  # fmt: skip
        result = measure(model, options, 8)
        if result["kept"] >= args.kept or not result["complete"]:
            return result


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, what in zip(figure.subplots(1, 3), GROWING):
        points = [row for row in rows if row["what"] == what]
        sizes = [row["n"] for row in points]
        axes.plot(sizes, [row["tested"] for row in points], "o-", color="tab:blue")
        axes.set(
            xlabel=what,
            ylabel="edges tested (blue), kept (grey)",
            xscale="log",
            yscale="log",
            xticks=sizes,
        )
        axes.set_xticklabels([str(n) for n in sizes])
        axes.minorticks_off()
        axes.plot(sizes, [row["kept"] for row in points], "^:", color="tab:gray")
        seconds = axes.twinx()
        seconds.plot(sizes, [row["seconds"] for row in points], "s--", color="tab:red")
        seconds.set(ylabel="seconds", yscale="log")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
