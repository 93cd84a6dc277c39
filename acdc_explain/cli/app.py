"""What all commands share: the app itself, opening a store, and what they print to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import UserError
from ..output.text import print_json, say
from ..plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from ..llm.exchange import Request
    from ..pipeline.context import RunContext
    from ..records.run.run import Run
    from ..store.store import Store

app = typer.Typer(
    help="From a behavior of a language model to a labeled, tested and searchable circuit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

benches = typer.Typer(help="Measure how good the results are.", no_args_is_help=True)
app.add_typer(benches, name="bench")


def installed() -> Plugins:
    """All plugins. Every command calls this first, so that it names the broken ones."""
    plugins = load_plugins()
    for name, error in sorted(plugins.broken.items()):
        say(f"acdc-explain: plugin {name!r} is broken and was left out: {error}", err=True)
    return plugins


def open_store(db: str, *, must_exist: bool = True) -> Store:
    """Open a store's file. Raises UserError."""
    from ..store.store import Store

    if must_exist and not Path(db).exists():
        raise UserError(
            f"There is no store {db}; make one with `acdc-explain run ioi --db {db}`, "
            "or name another with --db."
        )
    return Store(db)


def say_cut(shown: int, total: int | None) -> None:
    """Tell the reader that a list was cut; `total` None: its full length is not known."""
    of = (
        f"{shown} of {total} shown"
        if total is not None
        else f"{shown} shown, and there may be more"
    )
    say(f"{of}; --limit raises it.", err=True)


@contextmanager
def interruptible(db: str) -> Iterator[None]:
    """Turn Ctrl-C into one sentence about what the store keeps. Raises UserError."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(
            f"Stopped; what was finished is in {db}, and the same command goes on from there."
        ) from None


def show_result(run: Run, db: str, as_json: bool) -> None:
    """Print a run that a command has just stored, and how to see it again."""
    say_set_aside(run.set_aside)
    if run.reused:
        say("This run was in the store already; its result is reused.", err=True)
    if as_json:
        from ..store.document.write import to_document

        print_json(to_document(run))
        return
    from ..report.text.run import show_run
    from ..report.text.tables import console

    show_run(run, console())
    say(f"\nstored in {db}: acdc-explain show {run.id[:8]} --db {db}")


def say_set_aside(faults: Sequence[str]) -> None:
    """Report the plugins that failed: the run goes on, but their results are missing."""
    for fault in faults:
        say(
            f"acdc-explain: {fault}; what it would have added is missing, and the run is "
            "incomplete: fix the plugin and repeat the command.",
            err=True,
        )


def say_how_labeled(requested: str | None, used: str) -> None:
    """Explain why rules labeled the components if the user did not choose a labeler."""
    if requested is None and used == "rules":
        say(
            "No OPENAI_API_KEY or OPENAI_BASE_URL is set: components were labeled by rules.",
            err=True,
        )


def show_requests(work: RunContext, requests: Sequence[Request], as_json: bool) -> None:
    """Print the LLM requests of a dry run and their price. Raises UserError."""
    from ..llm.batch import bill

    if not work.asks_llm:
        raise UserError(
            f"Labeler {work.plan.labeler!r} asks no LLM, so there is nothing to rehearse; "
            "add --labeler llm or agent."
        )
    say_set_aside(work.set_aside)
    counts = bill(requests, work.session.prices, work.settings.llm_model)
    if as_json:
        print_json(counts)
        return
    from ..report.text.costs import show_bill
    from ..report.text.tables import console

    show_bill(counts, work.plan.labeler, console())
