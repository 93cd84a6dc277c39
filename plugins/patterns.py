"""Motifs looked for after every run; docs/search.md says how to write one."""

from __future__ import annotations

from acdc_explain import hookimpl

PATTERNS = {
    # Olsson et al. 2022: what stood before a token reaches the keys of the head that looks for it.
    "induction": "previous_token -k-> induction",
    "previous-token chain": "previous_token -*k-> induction -*-> logits",
    # Wang et al. 2022: duplicates are told to the S-inhibition heads, which steer the movers.
    "IOI core": "s_inhibition -q-> (name_mover|backup_name_mover) -> logits",
    "IOI upstream": "(duplicate_token|induction) -v-> s_inhibition",
    "duplicate to mover": "duplicate_token -> * -q-> name_mover",
    # McDougall et al. 2023: a head that is told what is about to be said, and says it less.
    "copy suppression": "* -q-> negative_name_mover(-) -> logits",
    "mover and its opponent": "name_mover -> negative_name_mover",
    # Hanna et al. 2023: heads bring the year to MLPs that raise what is larger.
    "greater-than": "head -> comparison(+) -> logits",
}


@hookimpl
def register_patterns() -> dict[str, str]:
    return PATTERNS
