"""The commands that search all runs of a store: search, motifs, unnamed."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import WrongUsage, nearest
from ..output.text import print_json, say
from ..progress import on_terminal
from .app import app, installed, interruptible, open_store, say_cut
from .options import DEFAULT_STORE, AnyVerdict, Db, Json, OfModel, OfTask


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="Words to find in descriptions.")] = None,
    role: Annotated[str | None, typer.Option(help="The role of the components.")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="A path of roles, such as 'previous_token -k-> induction -*-> logits'."),
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="RUN:NODE", help="Components that behave like this one.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Option(help="The verdict on the label, such as supported.")
    ] = None,
    task: OfTask = None,
    model: OfModel = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 50,
    any_verdict: AnyVerdict = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find labeled components, or paths of components, in all runs."""
    from ..ids import plain
    from ..records.verdict import WORST_FIRST

    plugins = installed()
    if verdict is not None and verdict not in WORST_FIRST:
        raise WrongUsage(
            f"There is no verdict {verdict!r}; verdicts are {', '.join(reversed(WORST_FIRST))}."
        )
    if role is not None and role not in plugins.roles():
        near = nearest(role, plugins.roles())
        meant = f" (did you mean {near}?)" if near else ""
        say(f"No installed plugin knows the role {role!r}{meant}; searching anyway.", err=True)
    matches = open_store(db).search(
        text, role=role, pattern=pattern, like=like, verdict=verdict, task=task, model=model,
        limit=limit, any_verdict=any_verdict,
    )  # fmt: skip
    if len(matches) == limit and matches.total != limit:
        say_cut(limit, matches.total)
    if as_json:
        print_json([plain(match) for match in matches])
        return
    from ..report.text.search import show_matches
    from ..report.text.tables import console

    show_matches(matches, console())


@app.command()
def motifs(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN...",
            help="Names of motifs, or patterns as in `search`.",
            show_default="all named",
        ),
    ] = None,
    chance: Annotated[
        bool, typer.Option("--chance/--no-chance", help="Also count in randomised circuits.")
    ] = True,
    any_verdict: AnyVerdict = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Count motifs by task and model, and compare with randomised circuits."""
    from ..store.motifs import motifs as count_motifs

    named = installed().patterns()
    texts = {text: named.get(text, text) for text in patterns} if patterns else named
    store = open_store(db)
    with interruptible(db), on_terminal() as report:
        counts = count_motifs(store, texts, chance=chance, any_verdict=any_verdict, progress=report)
    if as_json:
        print_json([count.as_dict() for count in counts])
        return
    from ..report.text.motifs import show_motifs
    from ..report.text.tables import console

    show_motifs(counts, console())


@app.command()
def unnamed(
    at_least: Annotated[
        int, typer.Option(min=1, help="In so many pairs of a task and a model.")
    ] = 2,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """List what components without a role read and do alike: candidates for new roles."""
    from ..ids import plain

    installed()
    found = open_store(db).unnamed(at_least)
    if as_json:
        print_json([plain(shared) for shared in found])
        return
    from ..report.text.search import show_unnamed
    from ..report.text.tables import console

    show_unnamed(found, console())
