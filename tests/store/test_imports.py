"""Imported runs are checked, marked as imported, and never mistaken for runs made here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

import acdc_explain as ax
from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.records.circuit import Node
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.run.run import Run
from acdc_explain.store.document.eap_ig import from_eap_ig
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..samples import make_run, whole_run

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "judges": ("role_card",), "anyway": True,
}  # fmt: skip


def imported(run: Run, where: str = "f.json") -> Run:
    return from_document(json.loads(json.dumps(to_document(run))), where)


pytestmark = pytest.mark.usefixtures("shared_contrasts")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "s.duckdb")


def label(document: Any) -> Any:
    return document["components"][0]["labels"][0]


@pytest.mark.parametrize(
    ("forge", "complaint"),
    [
        (lambda d: d["run"].update(id="0" * 16), "has the id"),
        (lambda d: d["run"]["settings"].update(labeler="llm"), "has the id"),
        (lambda d: d["run"]["versions"].update({"acdc-explain": "9"}), "has the id"),
        (lambda d: d["run"].update(status="perfect"), "no status 'perfect'"),
        (lambda d: d["circuit"].update(id="0" * 16), "circuit: '0000000000000000' is not what"),
        (lambda d: d["circuit"]["edges"].pop(), "circuit: "),
        (lambda d: d["circuit"]["nodes"].append("m2"), "nodes of the circuit: 'm2' is not"),
        (lambda d: label(d).update(role="induction"), "labels: "),
        (lambda d: label(d).update(confidence=1.0), "labels: "),
        (lambda d: d["components"][0]["evidence"][0]["facts"].update(text="x"), "evidence: "),
        (lambda d: d["components"][0]["evidence"][0].update(id="x"), "evidence: 'x' is not"),
        (lambda d: d["components"].append(d["components"][0]), "evidence: one is there twice"),
        (lambda d: d["exchanges"]["records"].clear(), "the exchange "),
        (lambda d: d["exchanges"]["records"][0].update(reply="no"), "the exchange "),
        (lambda d: d["summary"].update(exchange_id="x"), "the exchange 'x' is not there"),
        (lambda d: d["summary"]["sentences"][0].update(nodes=["a9.h9"]), "a9.h9 is no node of"),
        (
            lambda d: d["summary"]["sentences"][0].update(claims=["x"]),
            "the claim 'x' of a sentence is not there",
        ),
        (lambda d: d["motifs"][0].update(nodes={"x": "m7"}), "m7 is no node of the circuit"),
        (lambda d: d["run"].update(note=7), "name and note must be texts"),
    ],
)
def test_a_document_that_is_not_what_its_ids_say_is_refused(forge, complaint):
    document = json.loads(json.dumps(to_document(whole_run())))
    from_document(document, "f.json")  # unchanged, it is accepted
    forge(document)
    with pytest.raises(UserError, match=r"^f.json is no complete exported run") as caught:
        from_document(document, "f.json")
    assert complaint in str(caught.value)


def test_a_label_without_its_evidence_is_refused():
    run = whole_run()
    lost = replace(run, evidence=run.evidence[1:])
    with pytest.raises(UserError, match="of a label is not there"):
        imported(lost)


@pytest.mark.parametrize("name", ["a1048575.h0", "a524286.h0", "m524286", "a0.h4094"])
def test_a_node_beyond_the_bits_of_a_key_is_refused_everywhere(name, tmp_path):
    """Its key would be that of another node, even in another circuit."""
    with pytest.raises(ValueError, match="no model has such a layer or head"):
        Node.parse(name)
    with pytest.raises(ValueError, match="no model has"):
        from_eap_ig({"edges": {f"{name}->logits": {"in_graph": True}}})
    layer, _, head = name[1:].partition(".h")
    kind: Any = "head" if head else "mlp"
    with pytest.raises(ValueError, match="no model has"):  # also where a discoverer creates it
        Node(kind, int(layer), int(head) if head else None)
    document = json.loads(json.dumps(to_document(whole_run())))
    document["circuit"]["edges"].append({"edge": f"{name}->logits", "effect": 0.0})
    with pytest.raises(UserError, match="no model has such a layer or head"):
        from_document(document, "f.json")
    with pytest.raises(UserError, match="no node"):
        Store(tmp_path / "s.duckdb").search(like=f"last:{name}")


def test_the_last_nodes_that_are_allowed_have_keys_of_their_own():
    from acdc_explain.store.tables.keys import node_key, node_of

    names = ["input", "a0", "a0.h4093", "m0", "a1", "a524285.h4093", "m524285", "logits"]
    nodes = [Node.parse(name) for name in names]
    keys = [node_key(3, node) for node in nodes]
    assert keys == sorted(set(keys))
    assert [node_of(key) for key in keys] == nodes
    assert keys[-1] < node_key(4, nodes[0])


def test_where_a_run_came_from_is_shown(store, tmp_path):
    file = tmp_path / "elsewhere.json"
    file.write_text(json.dumps(to_document(whole_run())))
    db = ["--db", str(store.path)]
    assert "added" in CliRunner().invoke(app, ["import", str(file), *db]).output
    store.add_run(make_run("induction"))
    assert store.header(make_run("induction").id).origin is None
    origin = store.header(whole_run().id).origin
    assert origin is not None
    assert origin.startswith(f"{file}, 20")
    shown = CliRunner().invoke(app, ["show", whole_run().id, *db]).output
    assert f"origin: {file}" in shown.replace("\n", "")
    assert "origin" in CliRunner().invoke(app, ["runs", *db]).output
    told = json.loads(CliRunner().invoke(app, ["export", whole_run().id, *db]).output)
    assert told["run"]["origin"] == origin
    assert store.verify() == []


def forged(run: Run) -> Run:
    """A forged run: changed where no id protects it, with invented evidence and verdicts."""
    assert run.circuit is not None
    found = replace(run.circuit.faithfulness, circuit=123.0, random=0.5)
    edges = tuple(replace(edge, effect=9.0) for edge in run.circuit.edges)
    circuit = replace(run.circuit, faithfulness=found, edges=edges, n_layers=50, seconds=0.0)
    lies = {e.id: replace(e, facts={"measures": {"copying": {"value": 9.0}}}) for e in run.evidence}
    labels = [
        replace(x, evidence_ids=tuple(lies[i].id for i in x.evidence_ids)) for x in run.labels
    ]
    ids = {old.id: new.id for old, new in zip(run.labels, labels)}
    verdicts = [
        replace(v, label_id=ids[v.label_id], outcome="supported", score=1.0) for v in run.verdicts
    ]
    return replace(
        run, circuit=circuit, evidence=list(lies.values()), labels=labels, verdicts=verdicts
    )


def results(run: Run) -> Any:
    """All results of a run, without durations and dates."""
    document = to_document(run)
    for key in ("seconds", "forward_seconds"):
        document["circuit"].pop(key)
    document["run"].pop("created_at")
    document["components"] = sorted(document["components"], key=str)
    return document


@pytest.fixture(scope="module")
def honest(small_model, tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("honest") / "s.duckdb"
    return ax.explain(word_task(4), small_model("neox"), store=path, **OPTIONS)


class TestAForgedImport:
    @pytest.fixture
    def model(self, small_model) -> Any:
        return small_model("neox")

    @pytest.mark.slow
    def test_is_not_the_result_of_the_same_run(self, honest, model, store):
        forgery = imported(forged(honest))
        assert store.add_run(forgery)
        assert store.get(honest.id).circuit.faithfulness.circuit == 123.0
        stages: set[str] = set()
        run = ax.explain(
            word_task(4), model, store=store, progress=lambda *now: stages.add(now[0]), **OPTIONS
        )
        assert not run.reused
        assert {"discover", "judge role_card"} <= stages
        assert run.header.origin is None
        assert results(run) == results(honest)
        assert [v.id for v in run.verdicts] == [v.id for v in honest.verdicts]
        assert store.verify() == []
        assert ax.explain(word_task(4), model, store=store, **OPTIONS).reused  # as a run made here
        with duckdb.connect(str(store.path)) as connection:
            assert connection.execute("SELECT count(*) FROM imported").fetchone() == (0,)
        assert not store.add_run(forgery)  # the import does not replace it
        assert results(store.get(honest.id)) == results(honest)

    @pytest.mark.slow
    def test_is_not_the_beginning_of_another_run(self, honest, model, store):
        """With other judges: another run with the same circuit, evidence and labels."""
        store.add_run(imported(forged(honest)))
        options = {**OPTIONS, "judges": ("role_card", "sufficiency")}
        run = ax.explain(word_task(4), model, store=store, **options)
        assert run.circuit.faithfulness == honest.circuit.faithfulness
        assert [e.effect for e in run.circuit.edges] == [e.effect for e in honest.circuit.edges]
        assert {e.id for e in run.evidence} == {e.id for e in honest.evidence}
        assert store.get(honest.id).header.origin is not None
        assert store.verify() == []
        assert run.header.origin is None

    @pytest.mark.slow
    def test_says_nothing_in_the_fingerprints_of_ones_own(self, honest, model, store):
        ax.explain(word_task(4), model, store=store, **OPTIONS)

        def held() -> Any:
            with duckdb.connect(str(store.path)) as connection:
                return connection.execute("SELECT * FROM fingerprints ORDER BY key").fetchall()

        before = held()
        other = replace(honest, header=replace(honest.header, settings={"x": 1}))
        lie = imported(with_own_id(forged(other)))
        assert store.add_run(lie)
        assert held() == before

    def test_labels_made_from_it_are_not_ones_own(self, honest, model, store):
        """`label` and `judge` continue an imported run, and it stays marked as imported."""
        from acdc_explain.pipeline.flow import judge
        from acdc_explain.pipeline.settings import Settings

        store.add_run(imported(honest))
        store.add_task(word_task(4))
        judged = judge(store.get(honest.id), store, Settings(judges=()))
        assert judged.header.origin is not None
        assert store.status(judged.id) is None
        assert store.verify() == []


def with_own_id(run: Run) -> Run:
    from acdc_explain.store.document.check import derived_id

    identity = derived_id(run.header)
    return replace(
        run,
        header=replace(run.header, id=identity),
        motifs=[replace(motif, run_id=identity) for motif in run.motifs],
        summary=run.summary and replace(run.summary, run_id=identity),
    )


def test_replies_of_others_are_not_replies_to_ones_own_questions(store):
    run = whole_run()
    store.add_run(imported(run))
    assert store.replies.find_replies("r1") == []
    store.replies.add_exchange(run.exchanges[0])  # asked here, with the same reply
    assert store.replies.find_replies("r1") == list(run.exchanges)
    store.add_run(imported(make_run("induction")))
    assert store.replies.find_replies("r1") == list(run.exchanges)


def test_evidence_of_others_is_not_ones_own_measurement(store):
    run = whole_run()
    store.add_run(imported(run))
    circuit = run.circuit
    assert circuit is not None
    assert store.find_circuit(circuit.task_id, circuit.model_id, "acdc", circuit.settings) is None
    assert store.find_evidence(circuit.id, "weights", {}) == []
    mine = make_run()
    header = replace(mine.header, id="a" * 16, origin=None)
    store.writer(header.id).write_header(header)
    own = Evidence(circuit.id, run.evidence[0].node, "weights", {}, {"text": "measured here"})
    store.add_circuit(circuit)
    store.writer(header.id).add_evidence([own, run.evidence[1]])
    assert {e.id for e in store.find_evidence(circuit.id, "weights", {})} == {
        own.id, run.evidence[1].id,
    }  # fmt: skip
    assert (
        store.find_circuit(circuit.task_id, circuit.model_id, "acdc", circuit.settings) == circuit
    )


def test_an_import_does_not_complete_a_run_of_ones_own(store):
    done = whole_run()
    header = replace(done.header, status="unfinished", circuit_id=None)
    store.writer(header.id).write_header(header)
    assert not store.add_run(imported(done))
    assert store.get(done.id).header == header
    assert store.get(done.id).labels == []


def test_a_run_of_ones_own_is_not_continued_as_an_imported_one(store):
    done = whole_run()
    store.add_run(done)
    with pytest.raises(UserError, match="holds a run .* of its own"):
        store.writer(done.id).write_header(replace(done.header, origin="f.json"))


def test_names_of_imports_give_way(store):
    store.add_run(whole_run())
    store.name_run("last", name="mine")
    other = make_run("induction")
    document = to_document(replace(other, header=replace(other.header, name="mine")))
    assert store.add_run(from_document(json.loads(json.dumps(document)), "f.json"))
    assert store.header("mine").id == whole_run().id
    assert store.header(other.id).name is None


def test_edges_of_an_import_stand_in_the_same_circuit(store):
    """The circuit of a run stays the same, whatever else is imported."""
    store.add_run(whole_run())
    before = to_document(store.get(whole_run().id))
    extra = make_run("other", edges=("input->a0.h1<v>", "a0.h1->logits"), roles={"a0.h1": "other"})
    document = (json.loads(json.dumps(to_document(replace(extra, motifs=[],
                             summary=None, failures=[])))))  # fmt: skip
    document["circuit"]["edges"].append({"edge": "a1048575.h0->logits", "effect": 1.0})
    with pytest.raises(UserError):
        store.add_run(from_document(document, "f.json"))
    assert to_document(store.get(whole_run().id)) == before


def test_what_older_stores_imported_is_found(tmp_path):
    """Imports of older versions stored neither prompts nor questions."""
    from acdc_explain.store.tables.schema import MIGRATIONS

    file = tmp_path / "old.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        connection.execute("INSERT INTO meta VALUES ('schema', 4)")
        for step in MIGRATIONS[:4]:
            connection.execute(step)
        for number, name in enumerate(("own", "lent")):
            connection.execute(
                f"INSERT INTO circuits VALUES ('c{name}', 't{name}', 'm', 'acdc', '{{}}', 9, 8, "
                f"'kl', 0.0, 1.0, 2.0, 1.5, 0.1, NULL, '{{}}', NULL, {number})"
            )
            connection.execute(
                f"INSERT INTO runs VALUES ('{name}', 'ioi', 't{name}', 'mini', 'm', 'c{name}', "
                f"'done', '2026-01-02 03:04:05', 0, '{{}}', '{{}}', {number})"
            )
        connection.execute("INSERT INTO tasks VALUES ('town', 'ioi', '{}')")
    store = Store(file)
    assert store.header("own").origin is None
    assert store.header("lent").origin == "imported by an earlier version"
    assert store.status("lent") is None
    assert store.find_circuit("town", "m", "acdc", {}) is not None
    assert store.find_circuit("tlent", "m", "acdc", {}) is None
