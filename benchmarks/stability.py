"""How much a result depends on the prompts that were drawn: the table of docs/labels.md.

    python benchmarks/stability.py                       # five draws of four tasks on mini
    python benchmarks/stability.py --examples 16 32 48   # what more prompts gain and cost

A label is stable if it is supported in every draw whose circuit has its node. `other` claims
nothing and is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from tempfile import TemporaryDirectory

import acdc_explain as ax
from acdc_explain.evaluation.stability import share_stable

TASKS = ("ioi", "induction", "greater_than", "gendered_pronoun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--examples", type=int, nargs="+", help="default: that of the command line")
    parser.add_argument("--discoverer", default="acdc")
    parser.add_argument("--max-edges", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model = ax.load_model(arguments.model)
    rows = []
    with TemporaryDirectory() as folder:
        for examples in arguments.examples or (None,):
            for task in arguments.tasks:
                rows.append(measure(model, task, examples, arguments, f"{folder}/s.duckdb"))
                print(f"{task} {examples or ''}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print(table(rows))


def measure(model, task: str, examples: int | None, arguments, store: str) -> dict:
    started = time.monotonic()
    options = {} if arguments.max_edges is None else {"max_edges": arguments.max_edges}
    result = ax.stability(
        task,
        model,
        seeds=range(arguments.first, arguments.first + arguments.seeds),
        store=store,
        examples=examples,
        labeler="rules",
        discoverer=arguments.discoverer,
        **options,
    )
    supported, stable, contradicted = share_stable(result.as_dict()["labels"])
    shares, draws = result.faithfulness, len(result.runs)
    return {
        "task": task,
        "examples": len(result.runs[0].task.discover),
        "supported_once": supported,
        "stable": stable,
        "contradicted": contradicted,
        "faithfulness": sum(shares) / len(shares),
        "error": result.error,
        "edges": [sum(n == draws for n in result.edges.values()), len(result.edges)],
        "components": [sum(n == draws for n in result.nodes.values()), len(result.nodes)],
        "seconds_per_run": (time.monotonic() - started) / draws,
        "unstable": [
            f"{x.node} {x.role} {x.supported}/{x.in_circuit}"
            for x in result.labels
            if x.supported and not x.stable and x.role != "other"
        ],
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| task | prompts | supported once | in all draws | supported and refuted | faithfulness |"
        " edges in all draws | components in all draws | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        edges, components = (f"{a} of {b}" for a, b in (row["edges"], row["components"]))
        lines.append(
            f"| `{row['task']}` | {row['examples']} | {row['supported_once']} | {row['stable']} | "
            f"{row['contradicted']} | {row['faithfulness']:.0%} ± {row['error']:.0%} | {edges} | "
            f"{components} | {row['seconds_per_run']:.0f} |"
        )
    once, stable = (sum(row[key] for row in rows) for key in ("supported_once", "stable"))
    lines.append(f"\n{stable} of {once} labels ({stable / max(once, 1):.0%}) are stable.")
    unstable = [f"{row['task']}: {x}" for row in rows for x in row["unstable"]]
    return "\n".join([*lines, *(f"Not stable: {x}." for x in unstable)])


if __name__ == "__main__":
    main()
