"""ACDC against the compiler: `python benchmarks/tracr_edges.py` (needs the extra `tracr`).

For every Tracr program: the edges that ACDC keeps and those of the compiled program, with
precision and recall. Ablation is with zeros, as a compiled program reads constants that no
corruption changes.

Some compiled edges are idle: a selector that is always true needs no query, whatever writes to it.
An edge is idle if cutting it alone changes the output on none of many other prompts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from acdc_explain_plugins.discoverers.acdc import acdc
from acdc_explain_plugins.known_roles.rasp_programs import PROGRAMS, Program
from acdc_explain_plugins.known_roles.tracr_compile import wiring
from acdc_explain_plugins.known_roles.tracr_programs import any_prompts, task

from acdc_explain import load_model
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tau", type=float, default=0.001, help="in nats")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument(
        "--others", type=int, default=512, help="prompts on which idle edges are found"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sources, totals = load_plugins().models(), Counter[str]()
    for program in PROGRAMS:
        model = load_model(f"tracr-{program.name}", sources=sources)
        contrast = contrast_of(model, program, args.examples, seed=0)
        kept = set(map(str, acdc(contrast, silent, tau=args.tau).edges))
        wired = set(map(str, wiring(program.name)))
        idle = idle_edges(contrast_of(model, program, args.others, seed=1), wired)
        row = {
            "program": program.name,
            "edges": model.graph.n_edges,
            "wired": len(wired),
            "idle": sorted(idle),
            "kept": len(kept),
            "wrong": sorted(kept - wired),
            "missing": sorted(wired - idle - kept),
        }
        print(json.dumps(row) if args.json else "  ".join(f"{k} {v}" for k, v in row.items()))
        totals += Counter(right=len(kept & wired), kept=len(kept))
        totals += Counter(wired=len(wired), busy=len(wired - idle), found=len(kept & wired - idle))
    print(
        f"precision {totals['right'] / totals['kept']:.4f}, recall "
        f"{totals['found'] / totals['busy']:.4f} ({totals['right'] / totals['wired']:.4f} of all "
        "compiled edges, idle ones included)"
    )


def contrast_of(model: Any, program: Program, examples: int, seed: int) -> Contrast:
    prompts = any_prompts(program, examples=examples, seed=seed)
    return Contrast(model, task(program, model), prompts, "kl", "zero")


def idle_edges(contrast: Contrast, edges: Iterable[str]) -> set[str]:
    """Edges without which the output is the same on every prompt."""
    engine, idle = ReferenceEngine(contrast), set()
    clean = contrast.clean_run.logits
    for edge in edges:
        cut = engine.cut_none()
        cut[engine.index(Edge.parse(edge))] = True
        if float((engine.logits(cut) - clean).abs().max()) < 1e-3:
            idle.add(edge)
    return idle


if __name__ == "__main__":
    main()
