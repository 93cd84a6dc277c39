"""Results as tables people can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ...output.terminal import Lines, PlainConsole, PlainTable
from ...records.circuit import in_order
from ...records.run.motif import MOST_MATCHES
from ...records.run.run import WAITS
from ...records.verdict import worst
from .behavior import show_behavior

if TYPE_CHECKING:
    from ...plugins import Plugins
    from ...records.circuit import Circuit, Node
    from ...records.run.motif import Enrichment, MotifCount
    from ...records.run.run import Run
    from ...records.run.summary import Sentence
    from ...records.verdict import Verdict
    from ...store.search.matches import Match
    from ...store.tables.read import Listed
    from ..comparison import Comparison, Shared

STYLES = {
    "supported": "green",
    "pattern_only": "yellow",
    "causal_only": "yellow",
    "inconclusive": "dim",
    "refuted": "red",
}
NUMERIC = (
    *("score", "chance", "n", "confidence"),
    *("accuracy", "majority", "kind", "decoys", "passed", "shuffled", "precision", "recall"),
    *("labeled", "as blind", "decisive", "evidence", "index", "neither"),
    *("runs", "with it", "matches", "expected", "times", "z", "p"),
    *("edges", "tested", "metric", "faithfulness", "random", "seconds"),
)


def console() -> PlainConsole:
    """Where results go: standard output, as wide as a terminal or as the text needs."""
    plain = PlainConsole(soft_wrap=False)
    return plain if plain.is_terminal else PlainConsole(width=140)


def _table(*columns: str) -> PlainTable:
    long = "description" in columns  # one line a row: --json has the whole text
    table = PlainTable(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=long
    )  # fmt: skip
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in NUMERIC else "left",
            overflow="ellipsis" if long else "fold",
            no_wrap=long,
            ratio=1 if column == "description" else None,
        )
    return table


def outcome_text(outcome: str | None) -> Text:
    return Text(outcome or "-", style=STYLES.get(outcome or "", ""))


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def show_run(run: Run, out: PlainConsole) -> None:
    """The circuit in a few lines, its components with roles and verdicts, the motifs found."""
    header, circuit = run.header, run.circuit
    out.print(run.title, style="bold")
    for what, told in (("name", header.name), ("note", header.note), ("origin", header.origin)):
        if told is not None:
            out.print(f"{what}: {told}")
    show_behavior(run, out)
    if circuit is None:
        out.print("No circuit yet; repeat the same command to go on.")
        return
    out.print(f"circuit: {circuit.size_in_words}")
    out.print(circuit.faithfulness_in_words)
    if circuit.alternatives or any(edge.share is not None for edge in circuit.edges):
        out.print(_stability(circuit))
    layers = [str(node) for node in circuit.nodes if node.kind == "attn"]
    if layers:
        out.print(f"whole attention layers are not labeled, heads are: {', '.join(layers)}")
    out.print()
    out.print(_components(run))
    if run.motifs:
        out.print()
        out.print(_motifs(run))
    if run.summary:
        out.print(f"\nin words (by {run.summary.labeler}, from the verdicts):")
        for sentence in run.summary.sentences:
            cited = "" if _names_all(sentence) else f" [{', '.join(map(str, sentence.nodes))}]"
            out.print(f"- {sentence.text}{cited}")
    if run.exchanges:
        out.print(f"\n{_llm(run)}")


def _names_all(sentence: Sentence) -> bool:
    return all(str(node) in sentence.text for node in sentence.nodes)


def _llm(run: Run) -> str:
    failed = sum(exchange.error is not None for exchange in run.exchanges)
    sent = sum(exchange.tokens_in or 0 for exchange in run.exchanges)
    received = sum(exchange.tokens_out or 0 for exchange in run.exchanges)
    return (
        f"LLM {run.exchanges[0].llm}: {len(run.exchanges)} exchanges, {failed} failed, "
        f"{sent} tokens in, {received} out, {_usd(run.cost_usd)}"
    )


def _usd(cost: float | None) -> str:
    return "price unknown" if cost is None else f"{cost:.4f} USD"


def show_bill(bill: Mapping[str, Any], labeler: str, out: PlainConsole) -> None:
    """Every prompt, and what asking would cost."""
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


def _stability(circuit: Circuit) -> str:
    """How much of the circuit does not depend on the order in which edges were visited."""
    always = sum(edge.share == 1 for edge in circuit.edges)
    return (
        f"over all orders: {always} of {len(circuit.edges)} edges are always kept; "
        f"{len(circuit.alternatives)} other edges are kept in some order"
    )


def show_sweep(circuits: Sequence[Circuit], out: PlainConsole) -> None:
    """Edges against faithfulness."""
    table = _table("threshold", "edges", "tested", "metric", "faithfulness", "random", "seconds")
    for circuit in circuits:
        found, tau = circuit.faithfulness, circuit.settings.get("tau")
        table.add_row(
            f"tau {tau:.4g}" if tau is not None else f"{circuit.settings['max_edges']} edges",
            str(len(circuit.edges)),
            str(circuit.n_edges_tested),
            f"{found.circuit:.3f}",
            _number(found.share, ".0%"),
            _number(found.random_share, ".0%"),
            f"{circuit.seconds:.1f}",
        )
    out.print(table)


def _components(run: Run) -> Table:
    """Labeled components first, those that got only `other` or nothing after them."""
    table = _table("node", "role", "verdict", "by", "measured", "chance", "n", "description")
    assert run.circuit is not None
    later: list[tuple[str | Text, ...]] = []
    for node in run.circuit.components:
        labels = run.labels_of(node)
        if not labels:
            why = run.failure_of(node)
            failed = Text("failed" if why else "no label", style="red" if why else "")
            if run.waits(node):
                failed, why = Text("waiting"), WAITS
            later.append((str(node), "-", failed, "-", "-", "-", "-", Text(why or "")))
        for label in labels:
            verdict = worst(run.verdicts_of(label))
            row: tuple[str | Text, ...] = (
                str(node),
                label.role,
                outcome_text(verdict.outcome if verdict else None),
                verdict.judge if verdict else "-",
                measured(verdict),
                _number(verdict.chance if verdict else None),
                str(verdict.n) if verdict else "-",
                Text(label.description),
            )
            if label.role == "other":
                later.append(row)
            else:
                table.add_row(*row)
    for row in later:
        table.add_row(*row)
    return table


def measured(verdict: Verdict | None) -> str:
    """The number that decided a verdict: what was measured, how much, in which unit."""
    if verdict is None or verdict.score is None:
        return "-"
    name = (verdict.measure or "").replace("_", " ")
    score = round(verdict.score, 2) + 0.0  # and not -0.00
    return " ".join(part for part in (name, f"{score:.2f}", verdict.unit) if part)


def _motifs(run: Run) -> Table:
    table = _table("motif", "matches", "for example")
    names = dict.fromkeys(motif.pattern for motif in run.motifs)
    for name in names:
        matches = [motif for motif in run.motifs if motif.pattern == name]
        n = f"{MOST_MATCHES} or more" if len(matches) >= MOST_MATCHES else str(len(matches))
        table.add_row(name, n, _path(matches[0].nodes))
    return table


def _path(nodes: Mapping[str, Node]) -> str:
    """Roles and nodes, in the order of the forward pass."""
    return ", ".join(
        f"{role} {node}" if role != str(node) else role for role, node in in_order(nodes)
    )


def show_runs(runs: Sequence[Listed], out: PlainConsole) -> None:
    """One row a run; columns that would be empty are left out."""
    columns = ["run", "task", "model", "discoverer", "labeler", "edges", "faithfulness", "status"]
    more = [x for x in ("name", "note", "origin") if any(getattr(r.header, x) for r in runs)]
    table = _table(*columns, "created", *more)
    for run in runs:
        header = run.header
        cells = [
            header.id,
            header.task,
            header.model,
            _discovery(header.settings),
            str(header.settings.get("labeler", "-")),
            "-" if run.edges is None else str(run.edges),
            _number(run.faithfulness, ".0%"),
            header.status,
            header.created_at.replace("T", " ").rstrip("Z"),
            *(getattr(header, column) or "" for column in more),
        ]
        table.add_row(*map(Text, cells))
    out.print(table)


def _discovery(settings: Mapping[str, Any]) -> str:
    """The discoverer, with what decides how large the circuit is and what a cut edge carries."""
    found = settings.get("discoverer_settings")
    known: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    parts = [str(settings.get("discoverer", "-"))]
    parts += [f"{x} {known[x]:.4g}" for x in ("tau", "max_edges") if _is_number(known.get(x))]
    parts += [x for x in ("positions",) if known.get(x)]
    parts += [str(known["level"])] if known.get("level") not in (None, "head") else []
    ablation = settings.get("ablation", "corrupt")
    return ", ".join(parts + ([] if ablation == "corrupt" else [str(ablation)]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show_comparison(runs: tuple[Run, Run], found: Comparison, out: PlainConsole) -> None:
    """What two runs share, and the components that are labeled otherwise."""
    for name, run in zip(("first", "second"), runs):
        out.print(f"{name}: run {run.id}, {run.header.task} on {run.header.model}")
    if not found.same_model:
        out.print("two models: components and edges of one name are not the same ones")
    table = _table("what", "both", "first", "second", "overlap", "shared")
    for what in ("components", "edges", "roles", "motifs"):
        shared: Shared = getattr(found, what)
        listed = ", ".join(shared.both) if what != "edges" else ""
        table.add_row(
            what,
            *(str(len(part)) for part in (shared.both, shared.first, shared.second)),
            _number(shared.overlap, ".0%"),
            listed,
        )
    out.print(table)
    if found.changes:
        out.print()
        changes = _table("node", "in the first", "in the second")
        for change in found.changes:
            changes.add_row(str(change.node), _standing(change.first), _standing(change.second))
        out.print(changes)


def _standing(roles: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {outcome}" for role, outcome in roles.items()) or "no label"


def show_bench(
    sets: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str], out: PlainConsole
) -> None:
    """One row a set of known roles, then one row a role."""
    table = _table(
        "set", "n", "accuracy", "majority", "kind", "decoys", "passed", "shuffled", "passed"
    )
    for name, score in sets.items():
        shares = (score[x] for x in ("accuracy", "majority_baseline", "kind_baseline"))
        counts = ("decoys", "decoys_supported", "shuffled", "shuffled_supported")
        table.add_row(
            name,
            str(score["n"]),
            *(_number(share, ".0%") for share in shares),
            *(str(score[count]) for count in counts),
        )
    out.print(table)
    out.print()
    table = _table("set", "role", "n", "precision", "recall")
    for name, score in sets.items():
        for role, found in score["roles"].items():
            shares = (_number(found[x], ".0%") for x in ("precision", "recall"))
            table.add_row(name, role, str(found["n"]), *shares)
    out.print(table)
    for name, score in sets.items():
        for mistake in score["mistakes"]:
            out.print(f"{name}: {mistake}")
    for name, reason in skipped.items():
        out.print(f"{name} was left out: {reason}")


def show_matches(matches: Sequence[Match], out: PlainConsole) -> None:
    if not matches:
        out.print("Nothing found.")
        return
    scored = any(match.score is not None for match in matches)
    columns = ["run", "task", "model", "match", "verdict", "confidence", "description"]
    table = _table(*(["score"] if scored else []), *columns)
    for match in matches:
        single = len(match.nodes) == 1
        table.add_row(
            *([_number(match.score)] if scored else []),
            match.run_id,
            match.task,
            match.model,
            _path(match.nodes),
            outcome_text(match.outcome) if single else Text(""),
            _number(match.confidence) if single else "",
            Text(match.description),
        )
    out.print(table)


def show_motifs(counts: Sequence[MotifCount], out: PlainConsole) -> None:
    """Only where a pattern occurs, or would by chance; what occurs nowhere is named below."""
    columns = ["motif", "task", "model", "run", "matches", "expected", "times", "z", "p"]
    table = _table(*columns, "runs", "with it")
    seen = set()
    for count in counts:
        beside = count.enrichment
        if not count.runs_with and (beside is None or not beside.expected):
            continue
        seen.add(count.pattern)
        cells = [count.pattern, count.task, count.model, count.run[:8], str(count.matches)]
        cells += [*_beside(beside), str(count.runs), str(count.runs_with)]
        table.add_row(*map(Text, cells))
    if seen:
        out.print(table)
        out.print("one run speaks for a task and a model; runs: how many there are of them")
    if absent := [name for name in dict.fromkeys(c.pattern for c in counts) if name not in seen]:
        out.print(f"nowhere: {', '.join(absent)}")
    if not counts:
        out.print("No run has labels yet.")


def _beside(found: Enrichment | None) -> list[str]:
    """Expected in randomised circuits, times as many, standard deviations, chance."""
    if found is None:
        return ["-"] * 4
    times = found.found / found.expected if found.expected else None
    expected = _number(found.expected, ".1f")
    return [expected, _number(times, ".1f"), _number(found.score, ".1f"), f"{found.p_value:.2g}"]


def show_firewall(found: Mapping[str, Any], out: PlainConsole) -> None:
    """How often labels follow the evidence and how often the index they are shown."""
    out.print(
        f"{found['labeler']} with {found['llm']} on run {found['run']}, {found['n']} components"
    )
    table = _table("shown", "labeled", "as blind", "decisive", "evidence", "index", "neither")
    for name, entry in found["conditions"].items():
        table.add_row(
            name,
            str(entry["labeled"]),
            _number(entry.get("as_blind"), ".0%"),
            *(str(entry.get(key, "-")) for key in ("decisive", "evidence", "index", "neither")),
        )
    out.print(table)
    out.print(
        "decisive: components where the evidence and the index they are shown with call for "
        "different roles; the rest cannot tell"
    )


def show_plugins(plugins: Plugins, out: PlainConsole) -> None:
    table = _table("plugin", "brings")
    for name in plugins.names:
        brings = plugins.brings(name)
        lines = [
            f"{hook.removeprefix('register_')}: {', '.join(names)}"
            for hook, names in brings.items()
        ]
        table.add_row(name, Lines(lines or ["nothing"]))
    for name, error in sorted(plugins.broken.items()):
        table.add_row(name, Text(f"BROKEN: {error}", style="red"))
    out.print(table)


def show_names(
    rows: Iterable[Sequence[str | Lines]], columns: Sequence[str], out: PlainConsole
) -> None:
    """A plain table of names and what they are."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    out.print(table)
