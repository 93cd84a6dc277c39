"""The whole flow on small models and on `mini`: what is stored, reused, resumed and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import duckdb
import pytest

import acdc_explain as ax
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import hookimpl
from acdc_explain.plugin_settings import function_of
from acdc_explain.plugins import load_plugins
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task

pytestmark = pytest.mark.usefixtures("shared_contrasts")


def rows(store: Store) -> dict[str, int]:
    with duckdb.connect(str(store.path)) as connection:
        tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        return {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "s.duckdb")


@pytest.fixture
def model(small_model) -> Any:
    return small_model("neox")


OPTIONS: dict[str, Any] = {"discoverer": "eap", "max_edges": 12, "anyway": True}
FEW: dict[str, Any] = {"collectors": ("attention",), "judges": ("role_card",)}
"""For tests of circuits."""


def test_every_stage_leaves_its_records(store, model):
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert run.header.status == "done"
    assert not run.reused
    assert run.circuit is not None
    assert 0 < len(run.circuit.edges) <= 12
    components = set(run.circuit.components)
    collectors = {*load_plugins().collectors(), "claims"}
    for node in components:
        assert {e.collector for e in run.evidence if e.node == node} == collectors
        assert run.labels_of(node)
        assert all(run.verdicts_of(label) for label in run.labels_of(node))
    assert run.header.settings["labeler"] == "rules"
    assert run.header.versions["python"]


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"tau": 1e6}, r"allow more edges \(`max_edges=`\) or lower `tau=`"),
        ({"discoverer": "eap", "max_edges": 1}, r"allow more edges \(`max_edges=`\)"),
    ],
)
def test_a_circuit_without_edges_is_refused(store, model, options, way):
    """Nothing is labeled, and the same command says the same again."""
    for _ in range(2):
        with pytest.raises(UserError, match=f"no path from the input to the logits .*; {way}[.]"):
            ax.explain(word_task(4, seed=3), model, store=store, anyway=True, **options)
    (header,) = store.runs()
    assert header.status == "unfinished"
    assert store.get(header.id).circuit is None
    assert rows(store)["labels"] == rows(store)["evidence"] == 0


def test_the_same_command_adds_no_row(measured, model):
    store = measured
    first = ax.explain(word_task(4), model, store=store, **OPTIONS)
    before = rows(store)
    again = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert again.reused
    assert again.id == first.id
    assert rows(store) == before


@pytest.mark.slow
def test_another_setting_is_another_run_that_shares_what_it_can(measured, model):
    store = measured
    first = ax.explain(word_task(4), model, store=store, **OPTIONS)
    before = rows(store)
    other = ax.explain(
        word_task(4), model, store=store, collectors=("attention", "patching"), **OPTIONS
    )
    assert other.id != first.id
    after = rows(store)
    assert after["circuits"] == before["circuits"]
    assert after["evidence"] == before["evidence"]
    assert {e.collector for e in other.evidence} == {"attention", "patching", "claims"}


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["top_examples", "judge role_card"])
def test_what_was_finished_is_not_done_again(stage, store, model, monkeypatch):
    """Stopped anywhere, the same call goes on and ends with what an undisturbed run gives."""

    def stop_in(current: str, done: int, total: int, note: str = "") -> None:
        if current == stage and done >= max(1, total // 2):
            raise Interrupted

    with pytest.raises(Interrupted):
        ax.explain(word_task(4), model, store=store, progress=stop_in, **OPTIONS)
    held = rows(store)
    measured: list[str] = []
    collectors = load_plugins().collectors()
    monkeypatch.setattr(
        type(load_plugins()),
        "collectors",
        lambda self: {name: _spy(measured, collect) for name, collect in collectors.items()},
    )
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert run.header.status == "done"
    assert len(measured) == rows(store)["evidence"] - held["evidence"]
    undisturbed = ax.explain(word_task(4), model, store=store.path.with_name("o.db"), **OPTIONS)
    strip = {"created_at": "", "seconds": 0, "forward_seconds": 0}
    found, expected = (_stripped(to_document(r), strip) for r in (run, undisturbed))
    assert found == expected


def _spy(measured: list[str], collect: Any) -> Any:
    import functools

    @functools.wraps(collect)
    def spied(contrast: Any, nodes: Any, **settings: Any) -> Any:
        for node, facts in collect(contrast, nodes, **settings):
            measured.append(str(node))
            yield node, facts

    return spied


def _stripped(value: Any, strip: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: strip.get(k, _stripped(v, strip)) for k, v in value.items()}
    return [_stripped(v, strip) for v in value] if isinstance(value, list) else value


def test_verdicts_see_held_out_examples_only(store, model, monkeypatch):
    """Discovery, evidence and labels get the discover split, judges the other one."""
    task = word_task(4)
    seen: dict[str, set[str]] = {}
    plugins = type(load_plugins())
    for kind in ("discoverers", "collectors", "judges"):
        original = getattr(plugins, kind)(load_plugins())

        def watch(things: dict[str, Any], kind: str = kind) -> dict[str, Any]:
            import functools

            def watched(thing: Any) -> Any:
                function = function_of(thing)

                @functools.wraps(function)
                def call(contrast: Any, *args: Any, **settings: Any) -> Any:
                    seen.setdefault(kind, set()).update(e.clean for e in contrast.examples)
                    return function(contrast, *args, **settings)

                return call if function is thing else replace(thing, function=call)

            return {name: watched(thing) for name, thing in things.items()}

        made = watch(original)
        monkeypatch.setattr(plugins, kind, lambda self, made=made: made)
    ax.explain(task, model, store=store, **OPTIONS)
    discover, held_out = ({e.clean for e in part} for part in (task.discover, task.held_out))
    assert seen == {"discoverers": discover, "collectors": discover, "judges": held_out}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"discoverer": "magic"}, "no discoverer 'magic'; there are acdc, eap"),
        ({"labeler": "magic"}, "no labeler 'magic'; there are agent, llm, rules"),
        ({"collectors": ("magic",)}, "no collector 'magic'"),
        ({"judges": ("magic",)}, "no judge 'magic'"),
        ({"steps": 3}, "'acdc' has no setting 'steps'; it takes tau, max_edges, positions"),
        ({"discoverer": "eap", "max_edges": 0}, "`max_edges=` (0)"),
        ({"tau": -1.0}, "`tau=` is -1.0"),
        ({"metric": "magic"}, "no metric 'magic'"),
        ({"labeler": "llm"}, "No LLM can be asked"),
    ],
)
def test_wrong_options(options, complaint, store, model):
    with pytest.raises(UserError) as caught:
        ax.explain(word_task(2), model, store=store, **options)
    assert complaint in str(caught.value)


def test_a_user_plugin_takes_part(measured, model):
    """A labeler of a few lines, registered by hand."""

    class Guess:
        def prompt(self, question, ask):
            return "guess"

        async def __call__(self, question, prompt, ask, *, boldness=0.5):
            return LabelerReply((Proposal("previous_token", "A guess.", boldness, ()),))

    class Plugin:
        @hookimpl
        def register_labelers(self):
            return {"guess": Guess()}

    plugins, plugin = load_plugins(), Plugin()
    plugins.register(plugin, "guessing")
    try:
        run = ax.explain(word_task(4), model, store=measured, labeler="guess", **OPTIONS)
    finally:
        plugins.unregister(plugin)
    assert {label.role for label in run.labels} == {"previous_token"}
    assert {label.confidence for label in run.labels} == {0.5}
    # a head of a random model is no previous-token head, and an MLP cannot be one
    outcomes = {v.outcome for v in run.verdicts}
    assert "supported" not in outcomes


@pytest.mark.slow
def test_prompts_given_in_python_are_checked_too(store, model):
    task = word_task(4)
    same = replace(task.held_out[1], corrupt=task.held_out[1].clean)
    with pytest.raises(UserError, match=r"held-out example 2"):
        ax.explain(replace(task, held_out=(task.held_out[0], same)), model, store=store, **OPTIONS)


@pytest.mark.slow
def test_another_card_is_judged_again(measured, model, monkeypatch):
    """A plugin that changes what a role demands changes the verdicts, and nothing else."""
    store = measured
    from acdc_explain.records.role import Requirement, RoleCard

    roles = {"other": load_plugins().roles()["other"]}
    monkeypatch.setattr(type(load_plugins()), "roles", lambda self: roles)
    first = ax.explain(word_task(4), model, store=store, **OPTIONS)
    stricter = Requirement("causal", "ablation_effect", away_from_zero=1e6)
    changed = {**roles, "other": RoleCard("other", "any", roles["other"].claim, (stricter,))}
    monkeypatch.setattr(type(load_plugins()), "roles", lambda self: changed)
    again = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert not again.reused
    assert {e.id for e in again.evidence} == {e.id for e in first.evidence}
    others = [label for label in again.labels if label.role == "other"]
    assert {v.outcome for label in others for v in again.verdicts_of(label)} == {"refuted"}
    held = store.get(first.id)
    assert sorted(v.id for v in held.verdicts) == sorted(v.id for v in first.verdicts)


@pytest.mark.slow
def test_an_interrupted_discovery_goes_on(store, model, monkeypatch, tmp_path):
    """Nothing that was measured is measured again, and the circuit is the same."""
    from acdc_explain.discovery.engine.fast import Engine

    options = {"discoverer": "acdc", "tau": 0.002, "anyway": True, **FEW}
    whole = ax.explain(word_task(4), model, store=tmp_path / "other.duckdb", **options)
    decide, decided = Engine.decide, []

    def stopping(self: Any, group: Any, tau: float) -> Any:
        decided.append(str(group[0][0][0]))
        if len(decided) == 4:
            raise KeyboardInterrupt
        return decide(self, group, tau)

    monkeypatch.setattr(Engine, "decide", stopping)
    with pytest.raises(KeyboardInterrupt):
        ax.explain(word_task(4), model, store=store, **options)
    again = ax.explain(word_task(4), model, store=store, **options)
    assert again.circuit is not None
    assert whole.circuit is not None
    assert again.circuit.edges == whole.circuit.edges
    assert again.circuit.n_edges_tested == whole.circuit.n_edges_tested
    assert decided[3] == decided[4]  # the node that was under way
    assert len(decided[4:]) == len(set(decided[4:]))
    assert not set(decided[:3]) & set(decided[4:])


@pytest.mark.slow
def test_sweep(store, model):
    circuits = ax.sweep(word_task(4), model, store=store, anyway=True)
    taus = [circuit.settings["tau"] for circuit in circuits]
    assert taus == sorted(taus, reverse=True)
    assert len({len(circuit.edges) for circuit in circuits}) > 2
    before = rows(store)
    assert ax.sweep(word_task(4), model, store=store, anyway=True) == circuits
    assert rows(store) == before
    assert before["runs"] == 0
    by_size = ax.sweep(word_task(4), model, store=store, discoverer="eap", anyway=True)
    assert [len(c.edges) <= c.settings["max_edges"] for c in by_size] == [True] * len(by_size)


@pytest.mark.slow
def test_ablations_and_grains_are_circuits_of_their_own(store, model):
    ways: list[dict[str, Any]] = [
        {},
        {"ablation": "zero"},
        {"ablation": "mean"},
        {"positions": True},
        {"level": "layer"},
    ]
    found = [
        ax.explain(
            word_task(4), model, store=store, discoverer="acdc", tau=0.01, anyway=True, **way, **FEW
        )
        for way in ways
    ]
    assert len({run.circuit.id for run in found if run.circuit}) == len(ways)
    for run in found:
        assert to_document(store.get(run.id)) == to_document(run)


@pytest.mark.slow
def test_killed_in_the_middle_and_repeated(tmp_path, model_folder):
    """SIGKILL while evidence is collected: nothing stored is lost or done twice."""
    store = Store(tmp_path / "s.duckdb")
    prompts = tmp_path / "p.jsonl"
    task = word_task(6)
    lines = [
        {"clean": e.clean, "corrupt": e.corrupt, "answers": e.answers, "foils": e.foils}
        for e in task.discover + task.held_out
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    command = [
        sys.executable, "-m", "acdc_explain", "run", "mine", "--model", str(model_folder("gpt2")),
        "--discoverer", "eap", "--max-edges", "60", "--prompts", str(prompts),
        "--db", str(store.path), "--json", "--anyway",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            if store.path.exists() and _count(store, "evidence") >= 3:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL  # it was not done yet
    held = _evidence_ids(store)
    assert held
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"]["status"] == "done"
    ids = [e["id"] for c in document["components"] for e in c["evidence"]]
    assert held <= set(ids)
    n_collectors = len(load_plugins().collectors()) + 1  # and the claims
    assert len(ids) == len(set(ids)) == n_collectors * len(document["components"])


def _count(store: Store, table: str) -> int:
    try:
        with store.database.writing() as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except UserError:
        return 0


def _evidence_ids(store: Store) -> set[str]:
    with store.database.writing() as connection:
        return {row[0] for row in connection.execute("SELECT id FROM evidence").fetchall()}


@pytest.fixture(scope="module")
def mini_runs(tmp_path_factory, mini):
    store = Store(tmp_path_factory.mktemp("mini") / "s.duckdb")
    ways: dict[str, dict[str, Any]] = {
        "ioi": {"discoverer": "eap", "max_edges": 80, "steps": 5},
        "induction": {"discoverer": "acdc"},
    }
    return store, {
        name: ax.explain(name, mini, store=store, examples=4, **way) for name, way in ways.items()
    }


class TestMini:
    """The README's example, and the promise about induction heads."""

    def test_circuits_are_faithful(self, mini_runs):
        at_least = {"acdc": 0.5, "eap": 0.3}  # an estimate finds less with as many edges
        for run in mini_runs[1].values():
            assert run.circuit.faithfulness.share > at_least[run.circuit.discoverer]
            assert len(run.circuit.edges) < 0.5 * run.circuit.n_edges_total

    def test_nothing_at_or_below_chance_is_support(self, mini_runs):
        """And what decided is said: measure, unit, interval, judge."""
        supported = [
            v for run in mini_runs[1].values() for v in run.verdicts if v.outcome == "supported"
        ]
        assert supported
        for verdict in supported:
            assert verdict.score > max(verdict.chance, 0)
            assert verdict.low <= verdict.score <= verdict.high
            assert verdict.measure
            assert verdict.unit

    def test_induction_is_found_where_it_is_done(self, mini_runs):
        """The heads that look like it move names in `ioi`."""
        store, found = mini_runs
        matches = store.search(role="induction")
        assert {match.run_id for match in matches} == {found["induction"].id}
        supported = store.search(role="induction", task="induction", verdict="supported")
        assert supported

    def test_the_induction_motif_is_found(self, mini_runs):
        motifs = {motif.pattern for motif in mini_runs[1]["induction"].motifs}
        assert "induction" in motifs

    def test_import_elsewhere_gives_the_same_document(self, mini_runs, tmp_path):
        from acdc_explain.store.document.read import from_document

        run = mini_runs[1]["ioi"]
        document = to_document(replace(run, reused=False))
        other = Store(tmp_path / "other.duckdb")
        other.add_run(from_document(json.loads(json.dumps(document)), "x"))
        found = to_document(other.get("last"))
        assert found["run"].pop("origin").startswith("x, 20")
        assert document["run"].pop("origin") is None
        assert found == document
