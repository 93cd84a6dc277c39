"""The commands that go on from a stored run: label, judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..output.files import check_output
from ..output.text import say, say_lines
from ..pipeline.settings import Settings
from ..progress import on_terminal
from .app import (
    app,
    installed,
    interruptible,
    open_store,
    say_how_labeled,
    show_requests,
    show_result,
)
from .options import DEFAULT_STORE, Db, DryRun, Json, RunName, settings_options

if TYPE_CHECKING:
    from ..records.run.run import Run
    from ..store.store import Store


@app.command()
@settings_options(
    *("labeler", "llm_model", "labeler_settings", "templates", "more_judges"),
    *("prices", "max_cost", "concurrency", "timeout", "retry", "device"),
)
def label(
    run: RunName,
    settings: Settings,
    batch_out: Annotated[
        Path | None, typer.Option(help="Write the LLM requests to a batch file; send none.")
    ] = None,
    batch_in: Annotated[
        Path | None, typer.Option(help="Read the replies from a batch file; send no request.")
    ] = None,
    no_judge: Annotated[
        bool, typer.Option("--no-judge", help="Only label; `acdc-explain judge` can test later.")
    ] = False,
    dry_run: DryRun = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Label a stored run again, from its evidence, and test the labels."""
    from ..pipeline.flow import label as relabel

    installed()
    store = open_store(db)
    if (batch_out or batch_in) and settings.labeler is None:
        settings = replace(settings, labeler="llm")  # no key is needed for a file
    stored = store.get(run)
    if batch_out:
        check_output(batch_out, db)
    if dry_run or batch_out:
        _rehearse_label(stored, store, settings, batch_out, as_json)
        return
    with interruptible(db), on_terminal() as report:
        result = relabel(stored, store, settings, report, judge=not no_judge, answers=batch_in)
    say_how_labeled(settings.labeler, result.header.settings["labeler"])
    show_result(result, db, as_json)
    if batch_in:
        _say_unanswered(result, no_judge)


def _say_unanswered(run: Run, no_judge: bool) -> None:
    """After a batch file: what it did not answer."""
    if run.header.status == "done":
        return
    assert run.circuit is not None
    n = sum(not run.labels_of(node) for node in run.circuit.components)
    if n or not no_judge:
        lacks = f"{n} components have no label yet" if n else "The circuit is not told yet"
        say(f"{lacks}; --batch-out writes what is still to be asked.", err=True)


@app.command()
@settings_options("more_judges", "llm_model", "device")
def judge(run: RunName, settings: Settings, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Test the labels of a stored run, with more judges if named."""
    from ..pipeline.flow import judge as rejudge

    installed()
    store = open_store(db)
    stored = store.get(run)
    with interruptible(db), on_terminal() as report:
        result = rejudge(stored, store, settings, report)
    show_result(result, db, as_json)


def _rehearse_label(
    run: Run, store: Store, settings: Settings, file: Path | None, as_json: bool
) -> None:
    """Print the LLM requests that labeling would send, or write them to a batch file."""
    from ..llm.batch import RecordingTransport, write_requests
    from ..pipeline.flow import evidence_of, would_ask
    from ..pipeline.prepare import reopen

    with on_terminal() as report:
        work = reopen(run, store, settings, report, RecordingTransport())
        assert run.circuit is not None
        requests = would_ask(work, run.circuit, evidence_of(run, work))
    if file is None:
        show_requests(work, requests, as_json)
        return
    n = write_requests(file, requests)
    say_lines(
        f"{n} questions written to {file}"
        + (
            f"; take the answers with\n  acdc-explain label {run.id[:8]} --labeler "
            f"{work.plan.labeler} --llm-model {work.settings.llm_model} --batch-in ANSWERS.jsonl "
            f"--db {store.path}"
            if n
            else ": everything is answered."
        )
    )
