"""Plot the results of `bench labels --json`: `python benchmarks/labels.py B.json -o F.png`.

Left: precision and recall of every role over all sets. Right: calibration, the share of labels
that are true by the labeler's confidence.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("measured", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    draw(json.loads(args.measured.read_text())["sets"], args.output)


def draw(sets: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    rows = [(name, role, scores) for name, s in sets.items() for role, scores in s["roles"].items()]
    places = range(len(rows))
    for offset, what, color in ((-0.2, "precision", "tab:blue"), (0.2, "recall", "tab:orange")):
        values = [scores[what] or 0.0 for _, _, scores in rows]
        left.barh([place + offset for place in places], values, 0.4, label=what, color=color)
    ticks = [f"{role} ({scores['n']}), {name}" for name, role, scores in rows]
    left.set_yticks(list(places), ticks)
    left.invert_yaxis()
    left.set_xlim(0, 1.05)
    left.tick_params(labelsize=7)
    left.legend(loc="lower left", fontsize=7)
    for name, scores in sets.items():
        points = scores["calibration"]
        right.plot([p["confidence"] for p in points], [p["true"] for p in points], "o-", label=name)
    right.plot([0, 1], [0, 1], ":", color="tab:gray")
    right.set(xlabel="confidence of the labeler", ylabel="share of labels that are true")
    right.legend(fontsize=7)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
