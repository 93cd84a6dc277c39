"""The cost of a store as it grows: `python benchmarks/store.py --circuits 10000 --json`.

Synthetic runs of 100 components and 500 edges, with roles about as frequent as in real circuits.
Every time is that of a whole call as a user makes it: open the file, search, close it. There are
two baselines: pattern matching on networkx graphs, and cosines of all fingerprints in numpy.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from acdc_explain.records.circuit import INPUT, LOGITS, Circuit, Edge, Faithfulness, Node
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.label import Label
from acdc_explain.records.run.header import RunHeader, run_id
from acdc_explain.records.run.run import Run
from acdc_explain.records.verdict import Verdict
from acdc_explain.store.motifs import enrich
from acdc_explain.store.search.fingerprint import HEADS as MEASURES
from acdc_explain.store.search.fingerprint import SIZE
from acdc_explain.store.store import Store

LAYERS, HEADS, MLPS, EDGES = 12, 90, 10, 500
FREQUENCIES = {
    "other": 34, "broad": 10, "attention_sink": 9, "induction": 8, "previous_token": 6,
    "name_mover": 6, "positional": 5, "duplicate_token": 4, "backup_name_mover": 4,
    "s_inhibition": 3, "negative_name_mover": 2, "successor": 1,
}  # fmt: skip
MLP_ROLES = ["token_enrichment", "logit_booster", "key_value_memory", "other"]
OUTCOMES = {
    "supported": 55,
    "inconclusive": 20,
    "causal_only": 10,
    "pattern_only": 10,
    "refuted": 5,
}
TASKS, MODELS = ["ioi", "induction", "greater_than", "docstring"], ["mini", "gpt2", "pythia-160m"]
VERBS = "attends copies moves suppresses compares raises lowers counts repeats skips".split()
THINGS = "names tokens years brackets letters numbers words subjects commas answers".split()
PATTERN = "previous_token -k-> induction -v-> * -> name_mover"
CHUNK = 100  # runs in one transaction while the store is built
SPARE = 10**6  # larger seeds are for timing additions


def synthetic_run(seed: int) -> Run:
    rng = random.Random(seed)
    heads = [Node("head", layer, head) for layer in range(LAYERS) for head in range(12)]
    nodes = sorted(rng.sample(heads, HEADS)) + [Node("mlp", layer) for layer in range(MLPS)]
    circuit = Circuit(
        task_id=f"{seed % len(TASKS)}", model_id=f"{MODELS[seed % 3]}@1", discoverer="acdc",
        settings={"tau": 0.01, "seed": seed}, edges=tuple(random_edges(nodes, rng)),
        n_edges_total=30000, n_edges_tested=9000,
        faithfulness=Faithfulness("logit_diff", 3.0, 2.5, 0.1, 0.2), seconds=10.0,
        forward_seconds=0.1, n_layers=LAYERS,
    )  # fmt: skip
    settings = {"discoverer": "acdc", "labeler": "rules", "seed": seed}
    circuit_id = circuit.id
    header = RunHeader(
        id=run_id(circuit.task_id, circuit.model_id, settings, {"acdc-explain": "0.1.0"}),
        task=TASKS[seed % 4], task_id=circuit.task_id, model=MODELS[seed % 3],
        model_id=circuit.model_id, circuit_id=circuit_id, status="done",
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1.6e9 + 3600 * seed)),
        seed=seed, settings=settings, versions={"acdc-explain": "0.1.0"},
    )  # fmt: skip
    evidence, labels, verdicts = [], [], []
    for node in nodes:
        node_evidence, label, node_verdicts = random_records(circuit_id, node, rng)
        evidence.append(node_evidence)
        labels.append(label)
        verdicts += node_verdicts
    return Run(header, circuit, evidence, labels, verdicts, [], [])


def random_edges(nodes: list[Node], rng: random.Random) -> list[Edge]:
    """Random edges from earlier to later layers."""
    edges: dict[str, Edge] = {}
    ordered = sorted(nodes, key=lambda n: (n.layer or 0, n.kind == "mlp"))
    while len(edges) < EDGES:
        receiver = rng.choice([*ordered, LOGITS])
        layer = LAYERS if receiver == LOGITS else receiver.layer or 0
        senders = [INPUT, *(n for n in ordered if (n.layer or 0) < layer)]
        port: Any = rng.choice("qkv") if receiver.kind == "head" else None
        edge = Edge(rng.choice(senders), receiver, port, rng.random())
        edges[str(edge)] = edge
    return list(edges.values())


def random_records(
    circuit_id: str, node: Node, rng: random.Random
) -> tuple[Evidence, Label, list[Verdict]]:
    """Evidence, a label and verdicts for one component."""
    names = rng.sample(list(MEASURES), 14)
    measures = {
        name: {"value": round(rng.random(), 5), "percentile": round(rng.random(), 4)}
        for name in names
    }
    evidence = Evidence(circuit_id, node, "synthetic", {}, {"measures": measures})
    role = (
        rng.choice(MLP_ROLES)
        if node.kind == "mlp"
        else rng.choices(list(FREQUENCIES), list(FREQUENCIES.values()))[0]
    )
    text = f"Head that {rng.choice(VERBS)} {rng.choice(THINGS)}: score {rng.random():.3f}."
    label = Label(circuit_id, node, "rules", role, ("END",), text, 0.8, (evidence.id,))
    outcome: Any = rng.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
    reason = f"score {rng.random():.3f}"
    return evidence, label, [
        Verdict(label.id, judge, outcome, 0.5, 0.1, 0.9, 32, reason)
        for judge in ("role_card", "transfer")
    ]  # fmt: skip


def build(store: Store, first: int, last: int) -> None:
    for start in range(first, last, CHUNK):
        store.add_runs(synthetic_run(seed) for seed in range(start, min(start + CHUNK, last)))
        print(f"\r{min(start + CHUNK, last)} circuits", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def times(call: Callable[[int], Any], repeats: int) -> list[float]:
    """Milliseconds of each call, after one that is not counted."""
    call(-1)
    milliseconds = []
    for number in range(repeats):
        started = time.perf_counter()
        call(number)
        milliseconds.append(1000 * (time.perf_counter() - started))
    return milliseconds


def insert_ms(store: Store, first: int, repeats: int) -> float:
    runs = [synthetic_run(first + i) for i in range(repeats + 1)]
    return statistics.median(times(lambda i: store.add_run(runs[i + 1]), repeats))


def queries(store: Store, repeats: int) -> dict[str, list[float]]:
    roles = list(FREQUENCIES)[1:]
    runs = store.runs()[:: max(1, len(store.runs()) // 20)]
    likes = [
        f"{run.id}:{next(n for n in (store.get(run.id).circuit or _none()).components)}"
        for run in runs[:10]
    ]
    return {
        "role": times(lambda i: store.search(role=roles[i % len(roles)]), repeats),
        "role_verdict_model": times(
            lambda i: store.search(role=roles[i % len(roles)], verdict="supported", model="gpt2"),
            repeats,
        ),
        "text": times(
            lambda i: store.search(f"{VERBS[i % 10]} {THINGS[i // 10 % 10]}"), repeats
        ),
        "like": times(lambda i: store.search(like=likes[i % len(likes)]), repeats),
        "pattern": times(lambda i: store.search(pattern=PATTERN), repeats),
    }  # fmt: skip


def _none() -> Any:
    raise AssertionError("a synthetic run has a circuit")


def graphs(store: Store, n: int) -> Iterator[tuple[Any, dict[str, str]]]:
    """Circuits as networkx graphs, with the role of each node."""
    import networkx as nx

    for header in store.runs()[:n]:
        run = store.get(header.id)
        graph = nx.MultiDiGraph()
        for edge in (run.circuit or _none()).edges:
            graph.add_edge(str(edge.src), str(edge.dst), port=edge.port)
        yield graph, {str(label.node): label.role for label in run.labels}


def networkx_ms(store: Store, n: int) -> float:
    """Milliseconds per circuit to match PATTERN, with the graphs already in memory."""
    circuits, matches = list(graphs(store, n)), 0
    started = time.perf_counter()
    for graph, role in circuits:
        for first, second, port in graph.edges(data="port"):
            if (port, role.get(first), role.get(second)) != ("k", "previous_token", "induction"):
                continue
            for _, third, port in graph.out_edges(second, data="port"):
                if port == "v":
                    matches += sum(role.get(x) == "name_mover" for x in graph.successors(third))
    return 1000 * (time.perf_counter() - started) / max(len(circuits), 1)


def numpy_ms(n: int, repeats: int) -> float:
    """Milliseconds to find the 50 nearest of n vectors that are already in memory."""
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((n, SIZE), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def nearest(number: int) -> Any:
        cosines = vectors @ vectors[number]
        best = np.argpartition(-cosines, 50)[:50]
        return best[np.argsort(-cosines[best])]

    return statistics.median(times(nearest, repeats))


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def measure(circuits: int, repeats: int, path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        small = Store(Path(folder) / "small.duckdb")
        build(small, 0, 100)
        at_100 = insert_ms(small, SPARE, repeats)
    store = Store(path)
    build(store, sum(run.seed < SPARE for run in store.runs()), circuits)
    inserted = insert_ms(store, SPARE + len(store.runs()), repeats)
    by_query = queries(store, repeats)
    sampled = min(circuits, 100)
    started = time.perf_counter()
    run_ids = [h.id for h in store.runs()[:3]]
    for identity in run_ids:
        enrich(store, identity, [PATTERN])
    enrich_ms = 1000 * (time.perf_counter() - started) / len(run_ids)
    return {
        "circuits": circuits,
        "insert_ms": round(inserted, 1),
        "insert_ms_at_100": round(at_100, 1),
        "insert_ratio": round(inserted / at_100, 2),
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1),
        "p50_ms": {name: round(statistics.median(ms), 1) for name, ms in by_query.items()},
        "p95_ms": {name: round(p95(ms), 1) for name, ms in by_query.items()},
        "enrich_ms_per_circuit": round(enrich_ms, 1),
        "networkx_pattern_ms_per_circuit": round(networkx_ms(store, sampled), 3),
        "numpy_like_ms": round(numpy_ms(100 * circuits, repeats), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--circuits", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=20, help="calls of each kind")
    parser.add_argument("--db", type=Path, help="keep the store in this file, or continue with it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for circuits in args.circuits:
        with tempfile.TemporaryDirectory() as folder:
            path = args.db or Path(folder) / "store.duckdb"
            result = measure(circuits, args.repeats, path)
        print(json.dumps(result) if args.json else json.dumps(result, indent=2), flush=True)


if __name__ == "__main__":
    main()
