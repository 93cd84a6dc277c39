"""ACDC: cut every edge without which the metric holds (Conmy et al. 2023)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from acdc_explain import hookimpl
from acdc_explain.errors import UserError, WrongUsage
from acdc_explain.hookspecs import Discoverer
from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import Discovery

if TYPE_CHECKING:
    from acdc_explain.discovery.acdc import SearchResult
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.progress import Progress
    from acdc_explain.records.graph import SearchGraph

DEFAULT_SHARE = 0.01  # of the gap between the clean and the ablated metric


def acdc(
    contrast: Contrast,
    progress: Progress,
    *,
    tau: float | None = None,
    max_edges: int | None = None,
    positions: bool = False,
    level: str = "head",
    orders: int = 0,
    screen: int = 0,
    engine: str = "auto",
) -> Discovery:
    """Go through the receivers from the output back and cut each incoming edge in turn.

    An edge stays cut if the metric worsens by less than `tau`. A receiver without a kept outgoing
    edge loses all its incoming edges untested.

    Args:
        contrast: The model on the task's clean and corrupted prompts.
        progress: Receives the number of edges decided.
        tau: The threshold; by default 1 % of the gap between the clean and the ablated metric.
        max_edges: Search for the threshold that keeps about so many edges, and no more.
        positions: Split nodes by the task's named positions.
        level: "head", or "layer" for whole attention layers.
        orders: Repeat the search in so many other orders, to see which edges depend on the order.
        screen: Test only so many edges, those that attribution patching ranks highest. 0: all.
            A screened search is not exact.
        engine: "auto": the fast engine where it is exact, which cuts most edges in groups whose
            effect it measures; "single": the same, but it tests every edge alone; "reference": a
            forward pass for each edge; "fast": no other than the first.

    Returns:
        The kept edges on paths from the input to the logits.

    Raises:
        UserError: A setting is out of bounds, or no circuit of the size was found.
    """
    from acdc_explain.records.graph import SearchGraph

    _check(
        tau=tau,
        max_edges=max_edges,
        positions=positions,
        level=level,
        orders=orders,
        screen=screen,
        engine=engine,
    )
    if tau is None:
        tau = DEFAULT_SHARE * abs(contrast.clean_metric - contrast.corrupt_metric)
    places = contrast.place_names if positions else ()
    search_graph = SearchGraph(
        contrast.model.graph, "layer" if level == "layer" else "head", places
    )
    searches = _Searches(contrast, progress, engine, _screen(contrast, screen, progress))
    result = searches.run(search_graph, tau, max_edges)
    others = [
        searches.run(search_graph.shuffled(seed), result.tau, None, f"order {seed}")
        for seed in range(1, orders + 1)
    ]
    return _discovery(result, others, search_graph)


def _check(
    *,
    tau: float | None,
    max_edges: int | None,
    positions: bool,
    level: str,
    orders: int,
    screen: int,
    engine: str,
) -> None:
    """Raises WrongUsage for settings that are out of bounds or exclude each other."""
    from acdc_explain.records.graph import LEVELS

    if tau is not None and not (math.isfinite(tau) and tau >= 0):
        raise WrongUsage(f"`tau=` is {tau}; give a number from 0 up.")
    if tau is not None and max_edges is not None:
        raise WrongUsage("`tau=` and `max_edges=` exclude each other; give one of them.")
    if max_edges is not None and max_edges < 1:
        raise WrongUsage(f"`max_edges=` is {max_edges}; it must be at least 1.")
    if orders < 0 or screen < 0:
        raise WrongUsage(f"`orders=` ({orders}) and `screen=` ({screen}) must not be negative.")
    for option, value, known in (
        ("level", level, LEVELS),
        ("engine", engine, ("auto", "fast", "single", "reference")),
    ):
        if value not in known:
            raise WrongUsage(f"There is no {option} {value!r}; choose {' or '.join(known)}.")
    if screen and (positions or level != "head"):
        raise WrongUsage(
            "`screen=` ranks edges between whole heads; leave out `positions=`, `level=`."
        )


def _screen(contrast: Contrast, screen: int, progress: Progress) -> frozenset[Edge] | None:
    """The edges to test: those with the largest estimated effects. None: all."""
    if not screen:
        return None
    from acdc_explain.discovery.attribution import score_edges

    steps = 5 if contrast.metric_name == "kl" else 1
    return frozenset(score_edges(contrast, progress, steps).largest(screen))


class _Searches:
    """Searches in several orders, each with a checkpoint of its own."""

    def __init__(
        self, contrast: Contrast, progress: Progress, engine: str, screen: frozenset[Edge] | None
    ) -> None:
        self.contrast, self.progress = contrast, progress
        self.engine, self.screen = engine, screen
        self.n_screened = None if screen is None else len(screen)

    def run(
        self, search_graph: SearchGraph, tau: float, max_edges: int | None, note: str = ""
    ) -> SearchResult:
        """The result for a threshold or a number of edges. Raises UserError if there is none."""
        from acdc_explain.discovery.acdc import Search, Trace, best_of_size, metric_noise
        from acdc_explain.discovery.engine.choose import engine_for

        contrast = self.contrast
        places = " ".join(search_graph.places)
        key = f"acdc {search_graph.level} {places} screen {self.n_screened} {note}"
        checkpoints = contrast.checkpoints
        traces = [Trace(**entry) for entry in checkpoints.read(key) or []]
        search = Search(
            engine_for(contrast, search_graph, self.progress, self.engine),
            lambda done, total, so_far: self._report(done, total, so_far, note),
            traces=traces,
            save=lambda traces: checkpoints.write(key, [vars(trace) for trace in traces]),
            screen=self.screen,
            noise=metric_noise(contrast),
        )
        if max_edges is None:
            result = search.run(tau)
        else:
            result = best_of_size(search, max_edges, tau, contrast.clean_metric)
        if result is None:
            raise UserError(
                f"No circuit of at most {max_edges} edges was found; raise `max_edges=`."
            )
        return result

    def _report(self, done: int, total: int, so_far: SearchResult, note: str) -> None:
        words = f"{len(so_far.kept)} kept, {self.contrast.metric_name} {so_far.metric:.3f}"
        if so_far.n_in_groups:
            words += f", {so_far.n_in_groups:,} cut in groups"
        close = ""
        if so_far.n_close:
            close = f", {so_far.n_close} within the noise of tau (undecidable)"
        stage = f"discover {note}".strip()
        self.progress(stage, done, total, f"tau {so_far.tau:.3g}: {words}{close}")


def _discovery(
    result: SearchResult, others: Sequence[SearchResult], search_graph: SearchGraph
) -> Discovery:
    """The circuit, with the share of orders in which its edges and other edges are kept."""
    edges = result.circuit
    if not others:
        return Discovery(tuple(edges), result.n_tested, search_graph.n_edges)
    circuits = [set(edges), *(set(other.circuit) for other in others)]
    counts: Counter[Any] = Counter(edge for circuit in circuits for edge in circuit)
    shares = {edge: round(count / len(circuits), 4) for edge, count in counts.items()}
    return Discovery(
        tuple(replace(edge, share=shares[edge]) for edge in edges),
        result.n_tested,
        search_graph.n_edges,
        {edge: share for edge, share in shares.items() if edge not in circuits[0]},
    )


@hookimpl
def register_discoverers() -> dict[str, Discoverer]:
    return {"acdc": Discoverer(acdc, check=_check)}
