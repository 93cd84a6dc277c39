"""The commands that do the work: run, label, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import (
    DEFAULT_STORE,
    Db,
    Json,
    RunName,
    app,
    installed,
    interruptible,
    open_store,
    print_json,
    settings_in,
)
from .errors import UserError
from .plugins import Plugins
from .progress import on_terminal
from .settings import (
    DEFAULT_CONCURRENCY,
    DEFAULT_LLM,
    DEFAULT_MEMORY,
    DEFAULT_MODEL,
    DEFAULT_TIMEOUT,
)

if TYPE_CHECKING:
    from .exchange import Request
    from .run import Run
    from .settings import Settings
    from .store import Store
    from .work import Work


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
    float | None, typer.Option(min=0, help="USD that asking may cost; what is over is not asked.")
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


@app.command()
def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="See `acdc-explain tasks`.")],
    model: Annotated[str, typer.Option(help="A name, a folder, a .gguf file.")] = DEFAULT_MODEL,
    discoverer: Annotated[str, typer.Option(help="How to find the circuit.")] = "acdc",
    tau: Annotated[
        float | None,
        typer.Option(help="acdc: cut what worsens less.", show_default="1 % of the gap"),
    ] = None,
    max_edges: Annotated[int | None, typer.Option(help="The best of at most so many.")] = None,
    steps: Annotated[int | None, typer.Option(help="eap: steps of EAP-IG.")] = None,
    positions: Annotated[
        bool, typer.Option("--positions", help="acdc: split nodes by the task's named positions.")
    ] = False,
    level: Annotated[
        str | None, typer.Option(help="acdc: head, or layer for whole attention layers.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option(help="acdc: repeat in so many other orders.")
    ] = None,
    screen: Annotated[
        int | None, typer.Option(help="acdc: test only EAP's best edges (not exact).")
    ] = None,
    ablation: Annotated[
        str, typer.Option(help="What a cut edge carries: corrupt, mean or zero.")
    ] = "corrupt",
    metric: Annotated[
        str | None,
        typer.Option(help="kl, logit_diff, prob_diff or nll.", show_default="the task's"),
    ] = None,
    labeler: LabelerName = None,
    llm_model: LlmModel = DEFAULT_LLM,
    examples: Annotated[
        int | None, typer.Option(help="Examples to discover on.", show_default="16")
    ] = None,
    memory: Annotated[
        float, typer.Option(min=0.1, help="Gigabytes for discovery; sets its batch sizes.")
    ] = DEFAULT_MEMORY,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Only circuits, from small to large, and no labels.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --sweep: the picture.", show_default="TASK-MODEL.png")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="Judges, instead of all but those on request.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the task's prompts.")] = 0,
    prompts: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv or .json file; TASK names it.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="For top-activating examples: a text file, datasets:NAME.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: another discoverer's setting.")
    ] = None,
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
    """Find, measure, label and test the circuit of a behavior, and store it."""
    from .settings import Settings

    plugins = installed()
    options = {
        "tau": tau,
        "max_edges": max_edges,
        "steps": steps,
        "positions": positions or None,
        "level": level,
        "orders": orders,
        "screen": screen,
    }
    given = {name: value for name, value in options.items() if value is not None}
    settings = Settings(
        discoverer=discoverer,
        discoverer_settings={**given, **settings_in(setting or [])},
        metric=metric,
        ablation=ablation,
        memory=memory,
        labeler=labeler,
        llm_model=llm_model,
        judges=tuple(judge) if judge else None,
        examples=examples,
        seed=seed,
        prompts=str(prompts) if prompts else None,
        corpus=corpus,
        labeler_settings=_labeler_settings(reveal, labeler_set),
        templates=str(templates) if templates else None,
        prices=str(prices) if prices else None,
        max_cost=max_cost,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
    )
    _check_run(plugins, task, settings)
    store = open_store(db, must_exist=False)
    if sweep:
        _sweep(task, model, store, settings, plot, as_json)
        return
    if dry_run:
        _rehearse_run(task, model, store, settings, as_json)
        return
    from .pipeline import explain

    with interruptible(db), on_terminal() as report:
        result = explain(task, model, store=store, settings=settings, progress=report)
    _say_how_labeled(labeler, result.header.settings["labeler"])
    _show(result, db, as_json)


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
    from .pipeline import label as relabel
    from .settings import Settings

    installed()
    store = open_store(db)
    settings = Settings(
        labeler=labeler,
        llm_model=llm_model,
        labeler_settings=_labeler_settings(reveal, labeler_set),
        templates=str(templates) if templates else None,
        prices=str(prices) if prices else None,
        max_cost=max_cost,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
    )
    if (batch_out or batch_in) and labeler is None:
        settings = replace(settings, labeler="llm")  # no key is needed for a file
    found = store.get(run)
    if dry_run or batch_out:
        _rehearse_label(found, store, settings, batch_out, as_json)
        return
    with interruptible(db), on_terminal() as report:
        result = relabel(found, store, settings, report, judge=not no_judge, answers=batch_in)
    _say_how_labeled(settings.labeler, result.header.settings["labeler"])
    _show(result, db, as_json)
    if batch_in and result.failures:
        typer.echo(
            f"{len(result.failures)} components have no label yet; --batch-out writes what is "
            "still to be asked.",
            err=True,
        )


@app.command()
def judge(
    run: RunName,
    judge: Annotated[list[str] | None, typer.Option(help="Judges, beside those it had.")] = None,
    llm_model: LlmModel = DEFAULT_LLM,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Test the labels of a stored run, with more judges if named."""
    from .pipeline import judge as rejudge
    from .settings import Settings

    installed()
    store = open_store(db)
    settings = Settings(judges=tuple(judge) if judge else None, llm_model=llm_model)
    found = store.get(run)
    with interruptible(db), on_terminal() as report:
        result = rejudge(found, store, settings, report)
    _show(result, db, as_json)


def _show(result: Run, db: str, as_json: bool) -> None:
    if result.reused:
        typer.echo("This run was in the store already; its result is reused.", err=True)
    if as_json:
        from .run import to_document

        print_json(to_document(result))
        return
    from .tables import console, show_run

    show_run(result, console())
    typer.echo(f"\nstored in {db}: acdc-explain show {result.id[:8]} --db {db}")


def _labeler_settings(reveal: bool, pairs: Sequence[str] | None) -> dict[str, Any]:
    own = settings_in(pairs or [], "--labeler-set")
    return {**own, "reveal": True} if reveal else own


# --- what would be asked -----------------------------------------------------------------------


def _rehearse_run(task: str, model: str, store: Store, settings: Settings, as_json: bool) -> None:
    """Everything up to the evidence, and then the questions instead of the answers."""
    from .batch import Wanted
    from .pipeline import prepare, would_ask

    with interruptible(str(store.path)), on_terminal() as report:
        work = prepare(task, model, store, settings, report, Wanted())
        work.begin()
        circuit = work.find_circuit()
        requests = would_ask(work, circuit, work.collect(circuit))
    _show_requests(work, requests, as_json)


def _rehearse_label(
    run: Run, store: Store, settings: Settings, file: Path | None, as_json: bool
) -> None:
    from .batch import Wanted, write_requests
    from .pipeline import evidence_of, reopen, would_ask

    with on_terminal() as report:
        work = reopen(run, store, settings, report, Wanted())
        assert run.circuit is not None
        requests = would_ask(work, run.circuit, evidence_of(run, work))
    if file is None:
        _show_requests(work, requests, as_json)
        return
    n = write_requests(file, requests)
    typer.echo(
        f"{n} questions written to {file}"
        + (
            f"; take the answers with\n  acdc-explain label {run.id[:8]} --labeler "
            f"{work.plan.labeler} --llm-model {work.settings.llm_model} --batch-in ANSWERS.jsonl "
            f"--db {store.path}"
            if n
            else ": everything is answered."
        )
    )


def _show_requests(work: Work, requests: Sequence[Request], as_json: bool) -> None:
    from .batch import bill

    if not work.asks_llm:
        raise UserError(
            f"Labeler {work.plan.labeler!r} asks no LLM, so there is nothing to rehearse; "
            "add --labeler llm or agent."
        )
    counted = bill(requests, work.desk.prices, work.settings.llm_model)
    if as_json:
        print_json(counted)
        return
    from .tables import console, show_bill

    show_bill(counted, work.plan.labeler, console())


def _sweep(
    task: str, model: str, store: Store, settings: Settings, plot: Path | None, as_json: bool
) -> None:
    """A curve of edges against faithfulness: a table or JSON, and a picture."""
    from .pipeline import sweep
    from .plot import plot_sweep

    with interruptible(str(store.path)), on_terminal() as report:
        circuits = sweep(task, model, store=store, settings=settings, progress=report)
    file = plot or Path(f"{task}-{Path(model).stem}.png")
    plot_sweep(circuits, f"{task} on {Path(model).stem}", file)
    if as_json:
        from .run import circuit_document

        print_json([circuit_document(circuit) for circuit in circuits])
        return
    from .tables import console, show_sweep

    show_sweep(circuits, console())
    typer.echo(f"\npicture: {file}")


def _check_run(plugins: Plugins, task: str, settings: Any) -> None:
    """What can be refused before the model is loaded."""
    from .plan import Plan, default_labeler
    from .plugins import pick

    settings.check()
    if settings.prompts is None:
        pick("task", plugins.tasks(), task)
    for option, file in (("--prompts", settings.prompts), ("--corpus", settings.corpus)):
        if file is not None and not Path(file).is_file():
            raise UserError(f"There is no file {file}; {option} takes the path of one.")
    if settings.metric is not None:
        known = ("kl", "logit_diff", "prob_diff", "nll")
        if settings.metric not in known:
            raise UserError(f"There is no metric {settings.metric!r}; choose {', '.join(known)}.")
    Plan.of(plugins, settings, settings.labeler or default_labeler())


def _say_how_labeled(asked: str | None, used: str) -> None:
    if asked is None and used == "rules":
        typer.echo(
            "No OPENAI_API_KEY or OPENAI_BASE_URL is set: components were labeled by rules.",
            err=True,
        )
