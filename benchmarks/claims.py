"""What claims explain, what they cost, and whether claims dealt out anew fail.

    python benchmarks/claims.py ioi --model smollm2-135m --discoverer eap --max-edges 400

Costs are in plain forward passes of the held-out batch, timed in the same run. Each deal gives
every component the claims of another one of its kind, and tests them. Components that share a job,
such as movers, make the same claims, which are true of each; so those explained by claims that they
do not make themselves are counted apart.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import acdc_explain as ax
from acdc_explain.claims.compose import compose
from acdc_explain.claims.effects import component_results
from acdc_explain.claims.testing import check_claims, shared_key
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult, Coverage, is_explained

T = TypeVar("T")
Results = Mapping[Node, Sequence[ClaimResult]]


class Clock:
    """Times stages in forward passes."""

    def __init__(self, forward: float) -> None:
        self.forward, self.total = forward, 0.0

    def time(self, stage: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        passes = (time.perf_counter() - started) / self.forward
        self.total += passes
        print(f"{stage:34} {passes:7.1f} forward passes; peak so far {peak():.1f} GB")
        return result


def peak() -> float:
    """The most memory that this process has held, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def by_node(results: Sequence[ClaimResult]) -> Results:
    grouped: dict[Node, list[ClaimResult]] = defaultdict(list)
    for result in results:
        grouped[result.node].append(result)
    return grouped


def dealt(nodes: Sequence[Node], results: Results, seed: int) -> list[Claim]:
    """The claims of components given to others of the kind, none to its own."""
    rng, claims = random.Random(seed), []
    for kind in ("head", "mlp"):
        some = [node for node in nodes if node.kind == kind]
        order = list(some)
        while len(some) > 1 and any(a == b for a, b in zip(some, order)):
            rng.shuffle(order)
        for giver, taker in zip(some, order):
            if giver != taker:
                claims += [
                    Claim(taker, x.claim.name, x.claim.arguments) for x in results.get(giver, ())
                ]
    return claims


def not_its_own(again: Results, results: Results, node: Node) -> list[ClaimResult]:
    """The results of claims that were dealt to a component and that it does not make itself."""
    own = {shared_key(result.claim) for result in results.get(node, ())}
    return [result for result in again.get(node, ()) if shared_key(result.claim) not in own]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--discoverer", default="acdc")
    parser.add_argument("--max-edges", type=int)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deals", type=int, default=5)
    options = parser.parse_args()

    model = ax.load_model(options.model)
    task = load_plugins().tasks()[options.task](model, examples=options.examples, seed=options.seed)
    settings = {} if options.max_edges is None else {"max_edges": options.max_edges}
    circuit = ax.find_circuit(task, model, options.discoverer, **settings)
    discover, held_out = (ax.contrast(task, model, split) for split in ("discover", "held_out"))
    forward = statistics.median(model.forward_seconds(held_out.clean) for _ in range(3))
    print(f"{len(circuit.edges)} edges, {len(circuit.components)} components")
    print(f"one forward pass of {len(held_out)} held-out prompts: {forward:.3f} s; "
          f"peak so far {peak():.1f} GB")  # fmt: skip

    clock, kinds, nodes = Clock(forward), load_plugins().claims(), circuit.components
    composed = clock.time(
        "composed on the discovery prompts", lambda: compose(discover, circuit, nodes, kinds)
    )
    claims = [result.claim for result in composed]
    del discover
    tested = clock.time("tested on held-out prompts", lambda: check_claims(held_out, claims, kinds))
    results = by_node(tested)
    components = clock.time("effects, and which are idle",
                            lambda: component_results(held_out, nodes, [tested]))  # fmt: skip
    print(f"{'together':34} {clock.total:7.1f} forward passes; peak {peak():.1f} GB")
    print(Coverage.of(components).in_words)
    print(f"{len(claims)} claims tested:", dict(Counter(result.outcome for result in tested)))
    for component in sorted(components, key=lambda x: -abs(x.effect)):
        if not component.explained:
            print(f"not explained: {component.node} {component.effect:+.1%}")
    shares = []
    for seed in range(options.deals):
        again = by_node(check_claims(held_out, dealt(nodes, results, seed), kinds))
        all_claims = [node for node in nodes if is_explained(again.get(node, ()))]
        others = [node for node in nodes if is_explained(not_its_own(again, results, node))]
        shares.append((len(all_claims) / len(nodes), len(others) / len(nodes)))
        print(f"dealt out anew ({seed}): {len(all_claims)} explained, by claims that they do not "
              f"make themselves {len(others)}: {', '.join(map(str, others)) or '-'}")  # fmt: skip
    if shares:
        mean, mean_others = (statistics.mean(column) for column in zip(*shares))
        print(f"on average {mean:.1%}, by claims not their own {mean_others:.1%}")


if __name__ == "__main__":
    main()
