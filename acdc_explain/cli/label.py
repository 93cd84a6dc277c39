"""The commands that go on from a stored run: label, judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..llm.exchange import DEFAULT_CONCURRENCY, DEFAULT_LLM, DEFAULT_TIMEOUT
from ..output.files import check_output
from ..output.text import say, say_lines
from ..progress import on_terminal
from .app import (
    DEFAULT_STORE,
    Concurrency,
    Db,
    DryRun,
    Json,
    LabelerName,
    LabelerSet,
    LlmModel,
    MaxCost,
    PriceTable,
    Retry,
    Reveal,
    RunName,
    Templates,
    Timeout,
    app,
    asking,
    installed,
    interruptible,
    open_store,
    say_how_labeled,
    show_requests,
    show_result,
)

if TYPE_CHECKING:
    from ..pipeline.settings import Settings
    from ..records.run.run import Run
    from ..store.store import Store


@app.command()
def label(
    run: RunName,
    labeler: LabelerName = None,
    llm_model: LlmModel = DEFAULT_LLM,
    batch_out: Annotated[
        Path | None, typer.Option(help="Write the questions to a batch file; ask nobody.")
    ] = None,
    batch_in: Annotated[
        Path | None, typer.Option(help="Take the answers from a batch file; ask nobody.")
    ] = None,
    no_judge: Annotated[
        bool, typer.Option("--no-judge", help="Only label; `acdc-explain judge` tests later.")
    ] = False,
    reveal: Reveal = False,
    templates: Templates = None,
    labeler_set: LabelerSet = None,
    max_cost: MaxCost = None,
    prices: PriceTable = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    retry: Retry = False,
    dry_run: DryRun = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Label a stored run anew, from its evidence, and test the labels."""
    from ..pipeline.flow import label as relabel
    from ..pipeline.settings import Settings

    installed()
    store = open_store(db)
    settings = Settings(
        labeler=labeler,
        llm_model=llm_model,
        max_cost=max_cost,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
        **asking(reveal, labeler_set, templates, prices),
    )
    if (batch_out or batch_in) and labeler is None:
        settings = replace(settings, labeler="llm")  # no key is needed for a file
    found = store.get(run)
    if batch_out:
        check_output(batch_out, db)
    if dry_run or batch_out:
        _rehearse_label(found, store, settings, batch_out, as_json)
        return
    with interruptible(db), on_terminal() as report:
        result = relabel(found, store, settings, report, judge=not no_judge, answers=batch_in)
    say_how_labeled(settings.labeler, result.header.settings["labeler"])
    show_result(result, db, as_json)
    if batch_in and result.header.status != "done":
        assert result.circuit is not None
        n = sum(not result.labels_of(node) for node in result.circuit.components)
        if n or not no_judge:
            lacks = f"{n} components have no label yet" if n else "The circuit is not told yet"
            say(f"{lacks}; --batch-out writes what is still to be asked.", err=True)


@app.command()
def judge(
    run: RunName,
    judge: Annotated[list[str] | None, typer.Option(help="Judges, beside those it had.")] = None,
    llm_model: LlmModel = DEFAULT_LLM,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Test the labels of a stored run, with more judges if named."""
    from ..pipeline.flow import judge as rejudge
    from ..pipeline.settings import Settings

    installed()
    store = open_store(db)
    settings = Settings(more_judges=tuple(judge or ()), llm_model=llm_model)
    found = store.get(run)
    with interruptible(db), on_terminal() as report:
        result = rejudge(found, store, settings, report)
    show_result(result, db, as_json)


def _rehearse_label(
    run: Run, store: Store, settings: Settings, file: Path | None, as_json: bool
) -> None:
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
