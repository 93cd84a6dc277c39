"""What `doctor` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

DAY, HOUR, MINUTE = 86400, 3600, 60


def show_findings(findings: Mapping[str, Any], console: Console) -> None:
    """Print what was found about a model: what it is, the checks, and what work would take."""
    line = console.print
    line(
        f"{findings['model']}: {findings['architecture']}, {findings['parameters']:,} parameters, "
        f"{findings['dtype']} on {findings['device']}  {findings['id']}"
    )
    line(
        f"{findings['layers']} layers of {findings['heads_per_layer']} heads, "
        f"{findings['edges']:,} edges; prompts of at most {findings['context_tokens']:,} tokens; "
        f"before a prompt: {findings['special_tokens_before_a_prompt']}"
    )
    if findings["norms_after_heads"] != "none":
        line("a norm follows the heads; each has its share of it, scaled as in the present run")
    line(f"engine: {findings['engine']}")
    line()
    _show_checks(findings, console)
    line()
    line(
        f"a forward pass: {findings['forward_seconds']:.3g} s "
        f"({findings['forward_batch']}, {findings['threads']} threads)"
    )
    if "eap_seconds" in findings:
        _show_costs(findings, console)


def _show_checks(findings: Mapping[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("check", "of", "off by", "allowed"):
        table.add_column(name, justify="right" if name in ("off by", "allowed") else "left")
    for check in findings["checks"]:
        mark = "" if check["passed"] else " FAILED"
        table.add_row(
            check["what"], check["of"], f"{check['error']:.1e}{mark}", f"{check['limit']:.0e}"
        )
    console.print(table)


def _show_costs(findings: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"memory: weights {findings['weights_gigabytes']:.3g} GB, a search on these prompts "
        f"{findings['search_gigabytes']:.3g} GB"
    )
    console.print(f"eap on these prompts: {spoken(findings['eap_seconds'])}")
    seconds = findings["acdc_seconds_if_every_edge_is_tested"]
    rate = findings["acdc_seconds_per_tested_edge"]
    slower = ", and earlier layers take longer" if findings["engine"] == "fast" else ""
    console.print(
        f"acdc on these prompts: at least {spoken(seconds)} if every edge is tested; the first "
        f"{findings['acdc_edges_timed']:,} took {rate:.2g} s each{slower}"
    )
    if seconds > DAY:
        console.print("that is long: use --discoverer eap, or whole layers (--level layer)")


def spoken(seconds: float) -> str:
    """A duration in words."""
    for size, word in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
