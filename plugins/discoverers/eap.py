"""Edge attribution patching (Syed et al. 2023), and EAP-IG with `steps` (Hanna et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.errors import WrongUsage
from acdc_explain.hookspecs import Discoverer
from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import Discovery, prune

if TYPE_CHECKING:
    from acdc_explain.discovery.attribution import Scores
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.progress import Progress


def eap(
    contrast: Contrast, progress: Progress, *, max_edges: int = 200, steps: int = 1
) -> Discovery:
    """Keep the edges whose cut should worsen or improve the metric most, by its gradient.

    Args:
        contrast: The model on the task's clean and corrupted prompts.
        progress: Receives the number of gradients taken.
        max_edges: The most edges that the circuit may have, once those on no path from the input
            to the logits are dropped.
        steps: With more than 1, the gradient is averaged over so many inputs between the ablated
            and the clean one (EAP-IG).

    Returns:
        The edges with the largest estimated effects.

    Raises:
        WrongUsage: A setting is out of bounds, or EAP cannot estimate this metric.
    """
    from acdc_explain.discovery.attribution import score_edges

    _check(max_edges=max_edges, steps=steps)
    if contrast.metric_name == "kl" and steps == 1:
        raise WrongUsage(
            "The gradient of 'kl' is zero on the clean prompts, where EAP takes it; "
            "use `steps=5` (EAP-IG) or another `metric=`."
        )
    scores = score_edges(contrast, progress, steps)
    return Discovery(tuple(_largest(scores, max_edges)), len(scores))


def _check(*, max_edges: int, steps: int) -> None:
    """Raises WrongUsage for settings out of bounds."""
    if max_edges < 1 or steps < 1:
        raise WrongUsage(f"`max_edges=` ({max_edges}) and `steps=` ({steps}) must be at least 1.")


def _largest(scores: Scores, max_edges: int) -> list[Edge]:
    """The longest ranking with at most `max_edges` edges on paths from the input to the logits.

    The number of edges on paths only grows with the ranking, so bisection finds it.
    """
    low, high = 0, min(2 * max_edges, len(scores))
    while high < len(scores) and len(prune(scores.largest(high))) <= max_edges:
        low, high = high, min(2 * high, len(scores))
    ranked = scores.largest(high)
    while low < high:
        middle = (low + high + 1) // 2
        if len(prune(ranked[:middle])) <= max_edges:
            low = middle
        else:
            high = middle - 1
    return prune(ranked[:low])


@hookimpl
def register_discoverers() -> dict[str, Discoverer]:
    return {"eap": Discoverer(eap, check=_check)}
