"""The commands about what is installed and how good it is: lists, doctor, bench."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError, for_command_line
from ..llm.exchange import DEFAULT_CONCURRENCY, DEFAULT_LLM, DEFAULT_TIMEOUT
from ..models.options import DEFAULT_MODEL
from ..output.text import print_json, say
from ..plugins import load_plugins
from ..progress import on_terminal
from .app import (
    DEFAULT_STORE,
    Concurrency,
    Db,
    Json,
    LlmModel,
    MaxCost,
    RunName,
    Timeout,
    app,
    benches,
    installed,
    interruptible,
    open_store,
)

if TYPE_CHECKING:
    from ..output.terminal import Lines


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    _list(_first_lines(installed().tasks()), ("task", "what it is"), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models known by name."""
    _list(_first_lines(installed().models()), ("model", "what it is"), as_json)
    if not as_json:
        say(
            "\nAlso: any Hugging Face or TransformerLens name, a folder in Hugging Face format, "
            "a .gguf file."
        )


@app.command()
def roles(as_json: Json = False) -> None:
    """List the roles with the tests they must pass."""
    cards = installed().roles()
    if as_json:
        from ..ids import plain

        print_json(
            {
                name: plain(card) | {"requirements": [str(r) for r in card.requirements]}
                for name, card in cards.items()
            }
        )
        return
    from ..output.terminal import Lines

    rows = [
        (
            name,
            card.kind,
            card.claim,
            Lines(f"{r.tier}: {r}" for r in card.requirements),
            card.source,
        )
        for name, card in cards.items()
    ]
    _list(rows, ("role", "kind", "claim", "tests", "source"), False)


@app.command()
def plugins(as_json: Json = False) -> None:
    """List the plugins, what each brings, and those that are broken."""
    found = load_plugins()
    brings = {name: found.brings(name) for name in found.names}
    if as_json:
        print_json({"plugins": brings, "broken": found.broken})
        return
    from ..report.text.tables import console, show_plugins

    show_plugins(found, console())


def _first_lines(things: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _first_line(thing)) for name, thing in sorted(things.items())]


def _first_line(thing: Any) -> str:
    """Of what a plugin says about a thing; what partial arguments are bound to says it."""
    while isinstance(thing, partial):
        thing = thing.func
    text = getattr(thing, "__doc__", None)
    return text.strip().split("\n")[0] if isinstance(text, str) else ""


def _list(rows: Sequence[Sequence[str | Lines]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row)) for row in rows])
        return
    from ..report.text.tables import console, show_names

    show_names(rows, columns, console())


@benches.command("labels")
def bench_labels(
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET]...", help="planted, tracr, mini, smollm2.", show_default="all"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Labels against models whose roles are known: precision, recall, decoys, shuffled labels."""
    from ..evaluation import labels as bench
    from ..report.text.tables import console, show_bench

    with on_terminal() as progress:
        scores, skipped = bench.bench_labels(installed(), sets or None, progress)
    skipped = {name: for_command_line(reason) for name, reason in skipped.items()}
    counted = {name: score.as_dict() for name, score in scores.items()}
    if as_json:
        print_json({"sets": counted, "skipped": skipped})
    else:
        show_bench(counted, skipped, console())


@benches.command("firewall")
def bench_firewall(
    run: RunName = "last",
    labeler: Annotated[str, typer.Option(help="llm or agent.")] = "llm",
    llm_model: LlmModel = DEFAULT_LLM,
    seed: Annotated[int, typer.Option(min=0, help="Of the permutation.")] = 0,
    max_cost: MaxCost = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Does an LLM label what the evidence says, or what it remembers of the index?"""
    from ..evaluation.firewall import firewall
    from ..pipeline.settings import Settings
    from ..report.text.tables import console, show_firewall

    installed()
    store = open_store(db)
    settings = Settings(
        labeler=labeler,
        llm_model=llm_model,
        seed=seed,
        max_cost=max_cost,
        concurrency=concurrency,
        timeout=timeout,
    )
    with interruptible(db), on_terminal() as progress:
        found = firewall(store.get(run), store, settings, progress)
    if as_json:
        print_json(found)
    else:
        show_firewall(found, console())


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(metavar="MODEL")] = DEFAULT_MODEL, as_json: Json = False
) -> None:
    """Load a model, check that cutting edges is exact on it, and time a forward pass."""
    installed()
    from ..evaluation.doctor import examine
    from ..pipeline.prepare import load_model

    with on_terminal() as report:
        findings = examine(load_model(model, progress=report))
    if as_json:
        print_json(findings)
    else:
        from ..report.text.tables import console, show_names

        show_names(
            [(name.replace("_", " "), str(value)) for name, value in findings.items()],
            ("", ""),
            console(),
        )
    if findings["self_check"] != "passed":
        raise UserError(f"{model}: {findings['self_check']}; circuits of it would not be exact.")
