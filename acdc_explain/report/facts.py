"""The evidence of a component as a page shows it.

An imported record may hold anything: facts that do not have the expected form are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.evidence import Evidence, finite

Text = tuple[str, str, str]  # the text before the marked token, that token, the text after


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of a measure and, if known, how it compares with other nodes of the kind."""

    name: str
    value: float
    percentile: float | None
    null: tuple[float, ...]  # smallest, three quartiles, largest of the others; empty: unknown

    def place(self, value: float) -> float:
        """The place of a value, 0 to 1, on a scale with this value and those of the others."""
        low, high = min(self.value, *self.null), max(self.value, *self.null)
        if not high > low:
            return 0.5
        return (value / 2 - low / 2) / (high / 2 - low / 2)  # halves, so that it stays finite


@dataclass(frozen=True, slots=True)
class PageFacts:
    """The facts of one component that the page shows."""

    measures: tuple[Measured, ...]
    between_positions: Mapping[str, float]
    tokens: tuple[str, ...]  # of an example prompt
    attention: tuple[tuple[float, ...], ...]  # from each of its tokens to those up to it
    other_corruptions: Mapping[str, float]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    corpus: str
    texts: tuple[Text, ...]

    @staticmethod
    def of(evidence: Iterable[Evidence]) -> PageFacts:
        facts = {item.collector: _mapping(item.facts) for item in evidence}
        attention, direct = facts.get("attention", {}), facts.get("direct_logits", {})
        tokens, rows = _example(_mapping(attention.get("example")))
        top = facts.get("top_examples", {})
        examples = map(_mapping, _list(top.get("top")))
        return PageFacts(
            measures=_measures(facts.values()),
            between_positions=_shares(attention.get("between_positions")),
            tokens=tokens,
            attention=rows,
            other_corruptions=_shares(facts.get("patching", {}).get("under_other_corruptions")),
            promoted=tuple(map(str, _list(direct.get("promoted")))),
            suppressed=tuple(map(str, _list(direct.get("suppressed")))),
            corpus=str(top.get("corpus", "")),
            texts=tuple(_marked(str(example.get("text", ""))) for example in examples),
        )


def _measures(facts: Iterable[Mapping[str, Any]]) -> tuple[Measured, ...]:
    by_name = {}
    for entries in facts:
        for name, entry in _mapping(entries.get("measures")).items():
            measure = _mapping(entry)
            value, null = finite(measure.get("value")), _numbers(measure.get("null"))
            if value is not None:
                percentile = finite(measure.get("percentile"))
                by_name[name] = Measured(name, value, percentile, null if len(null) == 5 else ())
    return tuple(by_name[name] for name in sorted(by_name))


def _example(example: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    tokens = tuple(map(str, _list(example.get("tokens"))))
    rows = tuple(_numbers(row)[: len(tokens)] for row in _list(example.get("attention")))
    return tokens, rows[: len(tokens)]


def _shares(value: Any) -> Mapping[str, float]:
    numbers = {name: finite(share) for name, share in _mapping(value).items()}
    return {name: share for name, share in numbers.items() if share is not None}


def _numbers(value: Any) -> tuple[float, ...]:
    """The numbers of a list, or none if an entry is not a finite number."""
    numbers = [finite(entry) for entry in _list(value)]
    return tuple(x for x in numbers if x is not None) if None not in numbers else ()


def _marked(text: str) -> Text:
    """Split a text at the token that is marked «so»."""
    before, mark, rest = text.partition("«")
    token, _, after = rest.partition("»")
    return (before, token, after) if mark else (text, "", "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
