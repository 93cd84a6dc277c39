"""Evidence: the tokens of a text at which a component's output is largest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.activations import Batch
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node


def top_examples(
    contrast: Contrast,
    nodes: Sequence[Node],
    *,
    corpus: str | None = None,
    corpus_digest: str | None = None,
    most: int = 5,
    seed: int = 0,
) -> Iterator[tuple[Node, Facts]]:
    """The tokens of a corpus at which a component's output is largest.

    For a head also the token that it attends to most, «marked» in the text.

    Args:
        corpus: A text file or `datasets:NAME`; without it, text that the model writes.
        corpus_digest: Identifies the contents of the file, so that an edited file is a new one.
        most: How many tokens to list.
    """
    from acdc_explain.evidence.top_examples import corpus_batch, generated_text, strongest_places

    batch: Batch | None
    if corpus is not None:
        batch = corpus_batch(contrast.model, corpus, seed=seed)
    else:
        batch = generated_text(contrast.model, seed=seed)
    if batch is None:
        for node in nodes:
            yield node, {"corpus": "none: the model's vocabulary has no ordinary token", "top": []}
        return
    source = corpus or "text written by the model"
    places = strongest_places(contrast.model, batch, nodes, most)
    for node in nodes:
        yield node, {"corpus": source, "top": places[node]}


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"top_examples": top_examples}
