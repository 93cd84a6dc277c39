"""Motifs looked for after every run."""

from __future__ import annotations

from acdc_explain import hookimpl

PATTERNS = {
    "induction": "previous_token -k-> induction",
    "induction to output": "induction -> logits",
    "mover fed by induction": "induction -> * -> name_mover",
    "duplicate to mover": "duplicate_token -> * -q-> name_mover",
    "mover and its opponent": "name_mover -> negative_name_mover",
}


@hookimpl
def register_patterns() -> dict[str, str]:
    return PATTERNS
