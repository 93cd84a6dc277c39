"""What asking an LLM costs, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...records.run.run import Run


def usage_text(run: Run) -> str:
    """The exchanges with an LLM in a run: how many, tokens, cost. The run must have one."""
    failed = sum(exchange.error is not None for exchange in run.exchanges)
    tokens_in = sum(exchange.tokens_in or 0 for exchange in run.exchanges)
    tokens_out = sum(exchange.tokens_out or 0 for exchange in run.exchanges)
    return (
        f"LLM {run.exchanges[0].llm}: {len(run.exchanges)} exchanges, {failed} failed, "
        f"{tokens_in} tokens in, {tokens_out} out, {_usd(run.cost_usd)}"
    )


def show_bill(bill: Mapping[str, Any], labeler: str, out: PlainConsole) -> None:
    """Print every prompt of a dry run, and what sending them would cost."""
    for number, request in enumerate(bill["requests"], start=1):
        out.rule(f"{request['template']} {number} of {bill['n']}: ~{request['tokens_in']} tokens")
        out.print_lines(request["prompt"])
    out.rule()
    out.print(
        f"{bill['n']} requests to {bill['llm']}, about {bill['tokens_in']} tokens in and at most "
        f"{bill['tokens_out_at_most']} out: at most {_usd(bill['cost_usd_at_most'])}, as a batch "
        f"file {_usd(bill['batch_usd_at_most'])}"
    )
    if labeler == "agent":
        out.print("These are the next turns only; each component takes several.")


def _usd(cost: float | None) -> str:
    return "price unknown" if cost is None else f"{cost:.4f} USD"
