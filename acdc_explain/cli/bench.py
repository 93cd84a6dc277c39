"""The commands that measure how good the results are: bench labels, bench firewall."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ..errors import for_command_line
from ..output.text import print_json
from ..pipeline.settings import Settings
from ..progress import on_terminal
from .app import benches, installed, interruptible, open_store
from .options import DEFAULT_STORE, Db, Json, RunName, settings_options


@benches.command("labels")
@settings_options("device", "dtype")
def bench_labels(
    settings: Settings,
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET]...",
            help="Known roles to test on: planted, tracr, mini, smollm2.",
            show_default="all",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test labels on models with known roles: precision, recall, decoys, shuffled labels."""
    from ..evaluation import labels as bench
    from ..report.text.bench import show_bench
    from ..report.text.tables import console

    settings.check()
    with on_terminal() as progress:
        scores, skipped = bench.bench_labels(installed(), sets or None, progress, settings)
    skipped = {name: for_command_line(reason) for name, reason in skipped.items()}
    counts = {name: score.as_dict() for name, score in scores.items()}
    if as_json:
        print_json({"sets": counts, "skipped": skipped})
    else:
        show_bench(counts, skipped, console())


@benches.command("firewall")
@settings_options("llm_model", "max_cost", "concurrency", "timeout", "device")
def bench_firewall(
    settings: Settings,
    run: RunName = "last",
    labeler: Annotated[str, typer.Option(help="The labeler to test: llm or agent.")] = "llm",
    seed: Annotated[int, typer.Option(min=0, help="The seed for permuting the names.")] = 0,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Test whether an LLM labels by the evidence or by what it remembers of layer and head."""
    from ..evaluation.firewall import firewall
    from ..report.text.bench import show_firewall
    from ..report.text.tables import console

    installed()
    store = open_store(db)
    settings = replace(settings, labeler=labeler, seed=seed)
    with interruptible(db), on_terminal() as progress:
        counts = firewall(store.get(run), store, settings, progress)
    if as_json:
        print_json(counts)
    else:
        show_firewall(counts, console())
