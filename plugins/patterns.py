"""Motifs that every run is searched for; docs/search.md says how to write one."""

from __future__ import annotations

from acdc_explain import hookimpl

PATTERNS = {
    # Olsson et al. 2022: the previous token is written to the keys of the induction head.
    "induction": "previous_token -k-> induction",
    "previous-token chain": "previous_token -*k-> induction -*-> logits",
    # Wang et al. 2022: S-inhibition heads read which token is a duplicate and steer the movers.
    "IOI core": "s_inhibition -q-> (name_mover|backup_name_mover) -> logits",
    "IOI upstream": "(duplicate_token|induction) -v-> s_inhibition",
    "duplicate to mover": "duplicate_token -> * -q-> name_mover",
    # McDougall et al. 2023: a head reads the predicted token in its query and suppresses it.
    "copy suppression": "* -q-> negative_name_mover(-) -> logits",
    "mover and its opponent": "name_mover -> negative_name_mover",
    # Hanna et al. 2023: heads copy the year to MLPs that raise larger numbers.
    "greater-than": "head -> comparison(+) -> logits",
}


@hookimpl
def register_patterns() -> dict[str, str]:
    return PATTERNS
