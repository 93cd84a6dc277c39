"""What all commands share: the options with one meaning, the store, the way mistakes are told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError, WrongUsage
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

DEFAULT_STORE = "acdc_explain.duckdb"
Db = Annotated[
    str,
    typer.Option(
        "--db", envvar="ACDC_EXPLAIN_DB", help="The store's file.", show_default=DEFAULT_STORE
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="An id, its beginning, a name, or `last`.")
]

# how an LLM is asked

LabelerName = Annotated[
    str | None,
    typer.Option(
        "--labeler", help="rules, llm or agent.", show_default="llm with a key, else rules"
    ),
]
LlmModel = Annotated[str, typer.Option(help="The LLM to ask.")]
Reveal = Annotated[
    bool, typer.Option("--reveal", help="Show the LLM the model's name, layers and numbers.")
]
Templates = Annotated[
    Path | None, typer.Option(help="A folder of prompts (*.j2) that go before the built-in ones.")
]
LabelerSet = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE: a labeler's setting, like calls=3.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="USD that asking may cost now; what could be over is not asked. Replies of no use, "
        "repairs and attempts whose reply was lost count, too.",
    ),
]
PriceTable = Annotated[
    Path | None, typer.Option(help="Your prices, TOML.", envvar="ACDC_EXPLAIN_PRICES")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Questions under way at once.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a reply.")]
Retry = Annotated[bool, typer.Option("--retry", help="Ask again what got no usable reply before.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be asked and its price; ask nobody.")
]


def installed() -> Plugins:
    """All plugins; those that are broken are named in every command."""
    plugins = load_plugins()
    for name, error in sorted(plugins.broken.items()):
        say(f"acdc-explain: plugin {name!r} is broken and was left out: {error}", err=True)
    return plugins


def open_store(db: str, *, must_exist: bool = True) -> Store:
    from ..store.store import Store

    if must_exist and not Path(db).exists():
        raise UserError(
            f"There is no store {db}; make one with `acdc-explain run ioi --db {db}`, "
            "or name another with --db."
        )
    return Store(db)


def say_cut(shown: int, total: int | None) -> None:
    """Whenever not all is shown."""
    of = (
        f"{shown} of {total} shown"
        if total is not None
        else f"{shown} shown, and there may be more"
    )
    say(f"{of}; --limit raises it.", err=True)


@contextmanager
def interruptible(db: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(
            f"Stopped; what was finished is in {db}, and the same command goes on from there."
        ) from None


def settings_in(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """NAME=VALUE, where VALUE is read as JSON if it is JSON."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise WrongUsage(f"{option} takes NAME=VALUE, and {pair!r} has no '='.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def show_result(result: Run, db: str, as_json: bool) -> None:
    say_set_aside(result.set_aside)
    if result.reused:
        say("This run was in the store already; its result is reused.", err=True)
    if as_json:
        from ..store.document.write import to_document

        print_json(to_document(result))
        return
    from ..report.text.tables import console, show_run

    show_run(result, console())
    say(f"\nstored in {db}: acdc-explain show {result.id[:8]} --db {db}")


def asking(
    reveal: bool,
    labeler_set: Sequence[str] | None,
    templates: Path | None,
    prices: Path | None,
) -> dict[str, Any]:
    """The fields of Settings that say how a labeler asks."""
    own = settings_in(labeler_set or [], "--labeler-set")
    return {
        "labeler_settings": {**own, "reveal": True} if reveal else own,
        "templates": str(templates) if templates else None,
        "prices": str(prices) if prices else None,
    }


def say_set_aside(faults: Sequence[str]) -> None:
    """What plugins failed to do: the result lacks it."""
    for fault in faults:
        say(
            f"acdc-explain: {fault}; what it would have added is missing, and the run is "
            "incomplete: fix the plugin and repeat the command.",
            err=True,
        )


def say_how_labeled(asked: str | None, used: str) -> None:
    if asked is None and used == "rules":
        say(
            "No OPENAI_API_KEY or OPENAI_BASE_URL is set: components were labeled by rules.",
            err=True,
        )


def show_requests(work: RunContext, requests: Sequence[Request], as_json: bool) -> None:
    from ..llm.batch import bill

    if not work.asks_llm:
        raise UserError(
            f"Labeler {work.plan.labeler!r} asks no LLM, so there is nothing to rehearse; "
            "add --labeler llm or agent."
        )
    say_set_aside(work.set_aside)
    counted = bill(requests, work.session.prices, work.settings.llm_model)
    if as_json:
        print_json(counted)
        return
    from ..report.text.tables import console, show_bill

    show_bill(counted, work.plan.labeler, console())
