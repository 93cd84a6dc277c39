"""The cost of ACDC: time per edge decision of both engines, in plain forward passes.

    python benchmarks/discovery.py --model mini --batch 1 8 32
    python benchmarks/discovery.py --model smollm2-135m --tau 0.05 --batch 8 --sample 200

Everything is measured in one process, on the same model, examples, order and threshold. The
reference engine is too slow for a whole search. It decides a sample: some edges of nodes spread
over the search, each from the state in which the fast engine came to that node. Both engines must
decide the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from acdc_explain import load_model
from acdc_explain.discovery.acdc import Search, SearchResult
from acdc_explain.discovery.attribution import score_edges
from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.ids import content_id
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.network.hooks import Point
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge
from benchmarks.estimates import estimates
from benchmarks.shapes import random_model, random_task


class TimeIsUp(Exception):
    """Raised in a search after the seconds it may take."""


class TimedEngine(Engine):
    """The fast engine, which records for each receiver its decisions and how long they took."""

    def watch(self, seconds: float) -> TimedEngine:
        """Start recording; after `seconds` the next decision raises TimeIsUp."""
        # Each entry: receiver group, decisions, seconds, number of edges kept before.
        self.timings: list[tuple[Any, list[Any], float, int]] = []
        self.deadline = time.perf_counter() + seconds
        self.kept: list[Any] = []
        return self

    def decide(self, group: Any, tau: float) -> Any:
        started = time.perf_counter()
        if started > self.deadline:
            raise TimeIsUp
        decisions = super().decide(group, tau)
        self.timings.append((group, decisions, time.perf_counter() - started, len(self.kept)))
        self.kept += [edge for edge, kept, _ in decisions if kept]
        return decisions


def contrast_of(model: Any, args: argparse.Namespace, examples: int) -> Contrast:
    """The task's examples on the model; random words for models with random weights."""
    if args.model in ("gpt2", "llama"):
        task = random_task(examples, args.length)
    else:
        task = load_plugins().tasks()[args.task](model, examples=examples, seed=0)
    return Contrast(model, task, task.discover, args.metric)


def measure(model: Any, args: argparse.Namespace, examples: int) -> dict[str, Any]:
    """One search by the fast engine, timed, and a sample of it by the reference engine."""
    contrast = contrast_of(model, args, examples)
    forward = model.forward_seconds(contrast.clean, 7)
    gap = abs(contrast.clean_metric - contrast.corrupt_metric)
    tau = args.gap * gap if args.tau is None else args.tau
    started = time.perf_counter()
    engine = TimedEngine(contrast, in_groups=not args.single).watch(args.seconds)
    set_up = time.perf_counter() - started
    outcome = search(engine, tau)
    seconds = sum(group[2] for group in engine.timings)
    tested = sum(len(group[1]) for group in engine.timings)
    result = {
        "model": args.model,
        "batch": " x ".join(map(str, contrast.clean.tokens.shape)),
        "metric": contrast.metric_name,
        "tau": round(tau, 6),
        "forward_seconds": forward,
        "edges": model.graph.n_edges,
        "complete": outcome is not None,
        "tested": tested,
        "in_groups": sum(d.estimated for group in engine.timings for d in group[1]),
        "kept": len(engine.kept),
        "kept_edges": content_id("edges", sorted(map(str, engine.kept))),
        "set_up_seconds": round(set_up, 2),
        "seconds": round(seconds, 2),
        "forwards_per_edge": round(seconds / tested / forward, 5),
        "layers": by_layer(engine, forward),
    }
    if outcome is not None:
        independent = ReferenceEngine(contrast).measure(outcome.kept)
        result["metric_at_the_end"] = [outcome.metric, independent]
        products = sum(p.numel() for p in model.hf_model.parameters() if p.ndim == 2)
        for name, line in estimates(result, products, contrast.clean.tokens.numel()).items():
            result[f"estimated for {name}"] = line
    if args.sample:
        result |= reference_sample(contrast, engine, tau, args.sample, forward)
    result["peak_gb"] = peak_gb()
    return result


def peak_gb() -> float:
    """The most memory that this process has had, loading included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def search(engine: TimedEngine, tau: float) -> SearchResult | None:
    """The result of a search; None if it was stopped."""
    try:
        return Search(engine, lambda *_: None).run(tau)
    except TimeIsUp:
        return None


def by_layer(engine: TimedEngine, forward: float) -> dict[str, list[float]]:
    """The number of decisions and forward passes per decision, for each layer of receivers."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for group, decisions, seconds, _ in engine.timings:
        layer = group[0][0][0].layer
        entry = sums["logits" if layer is None else str(layer)]
        entry[0] += len(decisions)
        entry[1] += seconds
    return {
        name: [n, round(seconds / max(n, 1) / forward, 5)] for name, (n, seconds) in sums.items()
    }


def reference_sample(
    contrast: Contrast, engine: TimedEngine, tau: float, sample: int, forward: float
) -> dict[str, Any]:
    """The time of the reference engine on a sample, and how far its decisions agree."""
    reference = ReferenceEngine(contrast)
    nodes = max(12, sample // 40)
    each = max(1, sample // nodes)
    step = max(1, len(engine.timings) // nodes)
    order = [group[0][0].base for group in engine.search_graph.receiver_groups]
    seconds, n, same, off, kept = 0.0, 0, 0, 0.0, 0
    for group, decisions, _, n_kept in engine.timings[::step]:
        (node, port), senders = group[0]
        reference.load(order[: order.index(node.base)], engine.kept[:n_kept])
        _ = reference.metric  # measured before the clock starts
        started = time.perf_counter()
        expected = [reference.test(Edge(sender, node, port), tau) for sender in senders[:each]]
        seconds += time.perf_counter() - started
        for fast, slow in zip(decisions, expected):
            same += fast.kept == slow.kept and fast.edge == slow.edge
            kept += slow.kept
            if not fast.estimated:
                off = max(off, abs(fast.edge.effect - slow.edge.effect))
        n += len(expected)
    return {
        "reference_sample": n,
        "reference_same": same,
        "reference_kept": kept,
        "reference_largest_difference": off,
        "reference_forwards_per_edge": round(seconds / n / forward, 3),
    }


def attribution(model: Any, args: argparse.Namespace, examples: int) -> dict[str, Any]:
    """The cost of EAP and EAP-IG in forward and backward passes on the same batch, all included."""
    import torch

    def both() -> float:
        fresh = contrast_of(model, args, examples)
        with torch.enable_grad():
            hooks = [(Point("input"), lambda value: value.clone().requires_grad_(True))]
            started = time.perf_counter()
            fresh_logits = model.forward(fresh.clean, hooks)
            fresh_logits.sum().backward()
        return time.perf_counter() - started

    def one(steps: int) -> float:
        fresh = contrast_of(model, args, examples)
        started = time.perf_counter()
        score_edges(fresh, silent, steps)
        return time.perf_counter() - started

    one(1)
    peak = peak_gb()  # before the plain passes, which hold all layers at once
    both()
    units, ratios = [both()], {1: [], 5: []}
    for _ in range(4):  # units before and after, as the machine's speed changes
        for steps, passes in ratios.items():
            seconds = one(steps)
            units.append(both())
            passes.append(2 * seconds / (units[-1] + units[-2]))
    unit, eap, ig = (statistics.median(values) for values in (units, *ratios.values()))
    return {
        "model": args.model,
        "forward_backward_seconds": round(unit, 3),
        "eap_passes": round(eap, 2),
        "eap_ig_5_passes": round(ig, 2),
        "eap_peak_gb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", default="mini", help="a model; gpt2 and llama have random weights"
    )
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--metric", default="logit_diff")
    parser.add_argument("--tau", type=float)
    parser.add_argument(
        "--gap", type=float, default=0.01, help="tau as a share of the gap, without --tau"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument(
        "--length", type=int, default=16, help="tokens of a prompt, for random weights"
    )
    parser.add_argument(
        "--sizes",
        nargs="*",
        default=[],
        help="NAME=N: fields of the configuration, for random weights",
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="stop a search after this")
    parser.add_argument("--sample", type=int, default=120, help="decisions of the reference engine")
    parser.add_argument("--single", action="store_true", help="test every edge alone")
    parser.add_argument("--attribution", action="store_true", help="EAP instead of ACDC")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.model in ("gpt2", "llama"):
        sizes = {name: int(n) for name, n in (pair.split("=") for pair in args.sizes)}
        model = random_model(args.model, **sizes)
    else:
        model = load_model(args.model)
    job = attribution if args.attribution else measure
    for examples in args.batch:
        result = job(model, args, examples)
        if args.json:
            print(json.dumps(result), flush=True)
            continue
        for name, value in result.items():
            print(f"{name:>30}  {value}")
        print(flush=True)


if __name__ == "__main__":
    main()
