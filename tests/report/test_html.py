"""Pages: everything from outside is text, nothing leaves the page, and it works in a browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from typer.testing import CliRunner

import acdc_explain.report.notebook  # noqa: F401 (registers the drawings)
from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.graph import Graph
from acdc_explain.records.run.size import CircuitSize
from acdc_explain.report.commands import commands
from acdc_explain.report.curve import curve
from acdc_explain.report.drawing import draw
from acdc_explain.report.facts import PageFacts
from acdc_explain.report.html import compare_page, index_page, page
from acdc_explain.store.document.check import derived_id
from acdc_explain.store.document.read import _read, from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..plugins.test_hostile import FUZZ, changed, places, values
from ..samples import make_run, stored, whole_run

NASTY = [
    "<script>document.title='stolen'</script>", "\"><img src=x onerror=alert(1)>", "'; --", "{{ 7 * 7 }}",
    "שלום \u202e right to left", "🙂" * 20, "x" * 10_000, "</style></title>", "&amp;<b>bold</b>",
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: tags with attributes, ids, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def nasty_run(text: str):
    """Every text that comes from outside is this one."""
    run = make_run(task=text, model=text)
    assert run.circuit is not None
    facts = {
        "top": [{"text": text, "token": text}, {"text": f"a «{text}» b"}], "corpus": text,
        "promoted": [text], "suppressed": [text],
    }  # fmt: skip
    node = Node.parse("a1.h0")
    evidence = [
        *run.evidence,
        *(
            Evidence(run.circuit.id, node, name, {}, facts)
            for name in ("top_examples", "direct_logits")
        ),
        Evidence(run.circuit.id, node, "attention", {}, {"between_positions": {text: 0.5}}),
        Evidence(run.circuit.id, node, "patching", {}, {"under_other_corruptions": {text: 0.5}}),
    ]
    labels = [
        replace(x, role=text, description=text, positions=(text,), labeler=text) for x in run.labels
    ]
    verdicts = [
        replace(run.verdicts[0], label_id=label.id, reason=text, judge=text) for label in labels
    ]
    exchange = replace(run.exchanges[0], prompt=text, reply=text, llm=text)
    labels = [replace(label, exchange_id=exchange.id) for label in labels]
    verdicts = [replace(v, label_id=label.id) for v, label in zip(verdicts, labels)]
    motifs = [replace(run.motifs[0], pattern=text, nodes={text: node})]
    header = replace(run.header, settings={"discoverer": text, text: text})
    assert run.summary is not None
    summary = replace(run.summary, exchange_id=exchange.id)
    return replace(run, header=header, evidence=evidence, labels=labels, verdicts=verdicts,
                   motifs=motifs, exchanges=[exchange], summary=summary)  # fmt: skip


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("text", NASTY)
def test_what_comes_from_outside_is_text(text):
    run = nasty_run(text)
    harmless = [tag for tag, _ in Page(page(nasty_run("x"))).tags]
    for html, as_usual in (
        (page(run), harmless),
        (
            compare_page(run, run),
            [tag for tag, _ in Page(compare_page(*[nasty_run("x")] * 2)).tags],
        ),
        (index_page([run]), [tag for tag, _ in Page(index_page([nasty_run("x")])).tags]),
    ):
        parsed = Page(html)
        assert [tag for tag, _ in parsed.tags] == as_usual  # no element more
        assert not any(
            name.startswith("on") for _, attributes in parsed.tags for name in attributes
        )
        assert text in parsed.text


def test_nothing_leaves_the_page():
    for html in (
        page(whole_run()),
        compare_page(whole_run(), make_run()),
        index_page([whole_run()]),
    ):
        parsed = Page(html)
        for tag, attributes in parsed.tags:
            assert tag not in ("img", "iframe", "object", "embed", "link", "base")
            assert "src" not in attributes
            target = attributes.get("href")
            assert target is None or re.fullmatch(r"#.*|[0-9a-f]{16}\.html(#.*)?", target)
        assert "default-src 'none'" in html
        assert "@import" not in html
        assert "url(" not in html


def test_all_of_a_run_is_there():
    run = whole_run()
    assert run.circuit is not None
    parsed = Page(page(run))
    ids = {attributes.get("id") for _, attributes in parsed.tags}
    for node in run.circuit.components:
        assert f"c-{node}" in ids
    for label in run.labels:
        assert label.description in parsed.text
    for edge in run.circuit.edges:
        assert f"{edge}, effect" in parsed.text
    assert run.exchanges[0].prompt in parsed.text
    assert "faithfulness" in parsed.text
    targets = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert targets - {"c-input", "c-logits"} <= ids


def test_the_null_of_a_measure_and_the_curve_of_sizes():
    run = whole_run()
    measures = {"copying": {"value": 0.5, "percentile": 0.9, "null": [0.0, 0.1, 0.2, 0.3, 1.0]}}
    evidence = [replace(e, facts={"measures": measures}) for e in run.evidence]
    html = page(replace(run, evidence=evidence), sizes=[sized(6, 0.8), sized(20, 0.9)])
    assert "others: 0.000 to 1.000, quartiles 0.100, 0.200, 0.300" in html
    assert html.count('cx="80.0"') == 4  # 0.5, half way along the scale, in each panel
    assert "20 edges: 90%" in html
    assert "edges: " not in page(run, sizes=[sized(6, 0.8)])  # one point is no curve


def sized(n_edges: int, share: float, discoverer: str = "acdc", **settings) -> CircuitSize:
    return CircuitSize(f"{discoverer} {n_edges} {settings}", discoverer, settings, n_edges, share)


def test_a_line_for_each_way_of_finding_circuits(tmp_path):
    """Discoverers, levels and ablations are not joined; thresholds and sizes are."""
    store, run = Store(tmp_path / "s.duckdb"), whole_run()
    assert run.circuit is not None
    ways = [
        ("acdc", {"tau": 0.1}), ("acdc", {"tau": 0.01}), ("acdc", {"tau": 0.1, "level": "layer"}),
        ("acdc", {"tau": 0.1, "ablation": "zero"}), ("eap", {"max_edges": 2}), ("eap", {"max_edges": 4}),
    ]  # fmt: skip
    for n, (discoverer, settings) in enumerate(ways, start=1):
        whole = {"metric": "logit_diff", "ablation": "corrupt", "level": "head", "engine": "auto"}
        circuit = replace(
            run.circuit, discoverer=discoverer, settings={**whole, **settings},
            edges=run.circuit.edges[:n],
        )  # fmt: skip
        store.add_circuit(circuit)
    circuit = replace(run.circuit, settings={**whole, "tau": 0.01}, edges=run.circuit.edges[:2])
    drawn = curve(store.sizes(circuit), circuit.id)
    assert drawn is not None
    lines = {line.name: [point.n_edges for point in line.points] for line in drawn.lines}
    assert lines == {
        "acdc, ablation corrupt, level head": [1, 2],
        "acdc, ablation corrupt, level layer": [3],
        "acdc, ablation zero, level head": [4],
        "eap": [5, 6],
    }
    (marked,) = [point for line in drawn.lines for point in line.points if point.highlighted]
    assert marked.n_edges == 2
    html = page(replace(run, circuit=circuit), store.sizes(circuit))
    assert html.count('<polyline class="curve"') == 4
    assert html.count("(this run)") == html.count('r="5"') == 1
    assert "eap, 6 edges: " in html


def test_attention_on_an_example():
    run = whole_run()
    facts = {"example": {"tokens": ["a", "<b>"], "attention": [[1.0], [0.25, 0.75]]}}
    attention = Evidence(run.evidence[0].circuit_id, Node.parse("a1.h0"), "attention", {}, facts)
    html = page(replace(run, evidence=[*run.evidence, attention]))
    assert html.count('opacity="0.75"') == html.count('opacity="0.25"') == 1
    assert "&lt;b&gt;" in html


def test_from_its_document_alone():
    """A run made on another machine."""
    run = whole_run()
    assert page(from_document(to_document(run), "f.json")) == page(run)


def test_a_run_without_a_circuit():
    header = replace(whole_run().header, circuit_id=None, status="unfinished")
    empty = replace(whole_run(), header=header, circuit=None, evidence=[], labels=[], verdicts=[],
                    motifs=[], exchanges=[], failures=[], summary=None)  # fmt: skip
    assert "has no circuit yet" in Page(page(empty)).text
    assert "No circuit yet" in Page(compare_page(empty, whole_run())).text
    assert "no circuit yet" in empty._repr_html_()


def test_the_command_that_made_it():
    """What the settings of a run say, quoted for a shell; `test_again.py` types it."""
    run = whole_run()
    settings = {**run.header.settings, "discoverer_settings": {"tau": 0.05, "max_edges": None}}
    header = replace(run.header, settings=settings, model="my model")
    assert commands(replace(run, header=header), load_plugins()) == [
        "acdc-explain run ioi --model 'my model' --seed 0 --discoverer acdc --labeler rules "
        "--set tau=0.05"
    ]


def test_layers_go_up():
    run = whole_run()
    assert run.circuit is not None
    drawing = draw(run.circuit)
    height = {str(spot.node): spot.y for spot in drawing.spots}
    assert height["logits"] < height["a2.h1"] < height["m1"] < height["a1.h0"] < height["input"]
    assert len(drawing.lines) == len(run.circuit.edges)
    assert max(line.width for line in drawing.lines) == pytest.approx(5.8)
    assert len({(spot.x, spot.y) for spot in drawing.spots}) == len(drawing.spots)


def test_notebooks():
    run = whole_run()
    assert run.circuit is not None
    assert run.circuit._repr_html_().count("<path") == len(run.circuit.edges)
    assert "induction" in run._repr_html_()
    graph = run.circuit.to_networkx()
    assert isinstance(graph, nx.MultiDiGraph)
    assert graph.number_of_edges() == len(run.circuit.edges)
    assert list(run.circuit.to_pandas().edge) == [str(edge) for edge in run.circuit.edges]
    assert set(run.to_pandas().outcome) == {"supported"}


def test_matches_in_a_notebook(tmp_path):
    store = Store(tmp_path / "s.duckdb")
    store.add_run(nasty_run(NASTY[0]))
    matches = store.search()
    assert len(matches.to_pandas()) == len(matches) == 4
    assert "<script>" not in matches._repr_html_()
    assert next(iter(store.search(pattern="head -> *").to_pandas().nodes)).count(", ") == 1


class TestCommand:
    @pytest.fixture
    def db(self, tmp_path) -> str:
        return str(stored(tmp_path / "s.duckdb", *map(whole_run, ("ioi", "induction"))).path)

    def test_pages(self, db, tmp_path):
        file, folder = tmp_path / "new" / "run.html", tmp_path / "all"
        ids = [header.id for header in Store(db).runs()]
        for arguments in (
            ["last", "-o", str(file)], ["--compare", *ids, "-o", str(tmp_path / "two.html")],
            ["--store", "-o", str(folder)],
        ):  # fmt: skip
            done = CliRunner().invoke(app, ["report", *arguments, "--db", db])
            assert done.exit_code == 0, done.exception
        assert file.read_text() == page(Store(db).get("last"))
        assert {path.stem for path in folder.iterdir()} == {*ids, "index"}
        assert "induction on mini" in (tmp_path / "two.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "takes one RUN, and 0 were given"), (["a", "b"], "takes one RUN, and 2"),
            (["--compare", "a"], "two RUNs with --compare, and 1"),
            (["--store", "a"], "no RUN with --store, and 1"), (["zz"], "holds no run 'zz'"),
            (["last", "-o", "/dev/null/x.html"], "cannot be written"),
        ],
    )  # fmt: skip
    def test_mistakes(self, db, arguments, complaint):
        done = CliRunner().invoke(app, ["report", *arguments, "--db", db])
        assert isinstance(done.exception, UserError)
        assert complaint in str(done.exception)


def everything_shown():
    """A run whose evidence has all that a page knows how to show, as its document."""
    run = nasty_run("x")
    facts = {
        "measures": {"copying": {"value": 0.5, "percentile": 0.9, "null": [0.0, 0.1, 0.2, 0.3, 1.0]}},
        "example": {"tokens": ["a", "b"], "attention": [[1.0], [0.25, 0.75]]},
        "between_positions": {"END to S1": 0.5},
    }  # fmt: skip
    node = Node.parse("m1")
    assert run.circuit is not None
    more = [Evidence(run.circuit.id, node, name, {}, facts) for name in ("attention", "weights")]
    return json.loads(json.dumps(to_document(replace(run, evidence=[*run.evidence, *more]))))


def consistent(document: Any) -> Any:
    """The same content with the ids that belong to it: `import` takes no others."""
    read = _read(document, "x")
    text = json.dumps(document).replace(read.id, derived_id(read.header))
    old_ids = [evidence["id"] for entry in document["components"] for evidence in entry["evidence"]]
    for old, evidence in zip(old_ids, read.evidence):
        text = text.replace(json.dumps(old), json.dumps(evidence.id))
    return to_document(_read(json.loads(text), "x"))


SHOWN = consistent(everything_shown())
IN_FACTS = [path for path in places(SHOWN) if "facts" in path[:-1] or path[:1] == ("circuit",)]


class TestAnyRunThatImportTakes:
    def imported(self, tmp_path, document) -> Store | None:
        """A store with this run and a good one; None if it is not taken."""
        store, file = stored(tmp_path / "own.duckdb", whole_run()), tmp_path / "run.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        done = CliRunner().invoke(app, ["import", str(file), "--db", str(store.path)])
        return store if done.exit_code == 0 else None

    def check(self, store: Store, tmp_path: Path) -> str:
        """All three commands work; the page of the run."""
        (other,) = [h.id for h in store.runs() if h.id != whole_run().id]
        for arguments in (
            [other, "-o", str(tmp_path / "run.html")],
            ["--compare", other, whole_run().id, "-o", str(tmp_path / "two.html")],
            ["--store", "-o", str(tmp_path / "all")],
        ):
            done = CliRunner().invoke(app, ["report", *arguments, "--db", str(store.path)])
            assert done.exit_code == 0, (arguments, done.exception)
            assert "has no page" not in done.output
        return (tmp_path / "run.html").read_text()

    @pytest.mark.slow
    @given(st.lists(st.tuples(st.sampled_from(IN_FACTS), values), min_size=1, max_size=4))
    @bounds(FUZZ, max_examples=12)
    def test_changed_anywhere(self, tmp_path, changes):
        document = changed(SHOWN, changes)
        with suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
            document = consistent(document)
        if (store := self.imported(tmp_path, document)) is not None:
            self.check(store, tmp_path)

    def test_without_edges(self, tmp_path):
        run = make_run(edges=(), roles={})
        document = to_document(replace(run, motifs=[], summary=None, failures=[]))
        store = self.imported(tmp_path, document)
        assert store is not None
        assert "This circuit has no edge." in self.check(store, tmp_path)
        assert "This circuit has no edge." in (tmp_path / "two.html").read_text()
        circuit = store.get(run.id).circuit
        assert circuit is not None
        assert "no edge" in circuit._repr_html_()

    def test_without_components(self, tmp_path):
        run = make_run(edges=("input->logits",), roles={})
        document = to_document(replace(run, motifs=[], summary=None, failures=[]))
        store = self.imported(tmp_path, document)
        assert store is not None
        assert "input-&gt;logits" in self.check(store, tmp_path)

    def test_without_a_circuit(self, tmp_path):
        document = {
            **to_document(make_run("bare")),
            "circuit": None,
            "components": [],
            "summary": None,
        }
        store = self.imported(tmp_path, {**document, "motifs": []})
        assert store is not None
        assert "has no circuit yet" in self.check(store, tmp_path)

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("number", [1e308, -1e308, 1e-300, 0, True])
    def test_strange_numbers(self, number, tmp_path):
        document = copy.deepcopy(SHOWN)
        circuit = document["circuit"]
        circuit["metric"] |= {"clean": number, "circuit": number, "corrupt": 0.0}
        for edge in circuit["edges"]:
            edge["effect"] = number
        for component in document["components"]:
            for evidence in component["evidence"]:
                for measure in evidence["facts"].get("measures", {}).values():
                    measure |= {"value": number, "null": [-1e308, None, 0, 1, number]}
        store = self.imported(tmp_path, consistent(document))
        assert store is not None
        html = self.check(store, tmp_path)
        assert max(map(len, re.findall(r"\d+", html))) < 40
        assert not re.search(r'="-?(nan|inf)', html)

    def test_one_bad_run_never_stops_the_site(self, tmp_path, monkeypatch):
        store = Store(tmp_path / "s.duckdb")
        good, bad, unreadable = whole_run(), make_run("induction"), make_run("greater_than")
        for run in (good, bad, unreadable):
            store.add_run(run)
        get, measured = Store.get, PageFacts.of

        def failing_get(self, name):
            if name == unreadable.id:
                raise ValueError("no\nnode")
            return get(self, name)

        def failing_facts(evidence):
            items = list(evidence)
            assert bad.circuit is not None
            if items and items[0].circuit_id == bad.circuit.id:
                raise KeyError("<strange>")
            return measured(items)

        monkeypatch.setattr(Store, "get", failing_get)
        monkeypatch.setattr(PageFacts, "of", staticmethod(failing_facts))
        folder = tmp_path / "all"
        done = CliRunner().invoke(
            app, ["report", "--store", "-o", str(folder), "--db", str(store.path)]
        )
        assert done.exit_code == 0, done.exception
        assert {path.stem for path in folder.iterdir()} == {good.id, "index"}
        listed = Page((folder / "index.html").read_text()).text
        for run, reason in ((bad, "KeyError: '<strange>'"), (unreadable, "ValueError: no node")):
            assert run.id in listed
            assert reason in listed
            assert f"run {run.id} has no page: " in done.stderr
        done = CliRunner().invoke(app, ["report", bad.id, "--db", str(store.path)])
        assert isinstance(done.exception, UserError)
        assert "holds something that no page can show (KeyError" in str(done.exception)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PLAY = """
<script>
const seen = {}, at = (what) => document.querySelector(what);
const shown = (what) => getComputedStyle(at(what)).display !== "none";
const change = (id, value) => { const input = at(id); input.value = value; input.dispatchEvent(new Event("input")); };
const count = (what) => document.querySelectorAll(what).length;
window.addEventListener("load", () => {
  seen.hint = shown("#hint");
  at('[data-node="a1.h0"]').dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
  setTimeout(() => {
    seen.panel = shown('[id="c-a1.h0"]');
    seen.others = shown('[id="c-a0.h1"]');
    seen.hintGone = !shown("#hint");
    seen.lit = count(".line.lit");
    change("#role", "induction");
    seen.faintNodes = count(".node.faint");
    change("#role", "");
    change("#outcome", "supported");
    seen.faintByVerdict = count(".node.faint");
    change("#outcome", "");
    change("#weight", "50");
    seen.hidden = count(".line.hidden");
    seen.title = document.title;
    seen.focus = at('[data-node="a1.h0"]').tabIndex;
    const out = document.createElement("pre");
    out.id = "seen";
    out.textContent = JSON.stringify(seen);
    document.body.append(out);
  }, 50);
});
</script>
"""


def browse(file: Path) -> tuple[str, str]:
    """The page after its scripts ran, and what the console said."""
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--proxy-server=127.0.0.1:9", "--virtual-time-budget=3000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, "\n".join(x for x in done.stderr.splitlines() if "CONSOLE" in x)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
class TestInABrowser:
    def test_clicks_and_filters(self, tmp_path):
        run = whole_run()
        file = tmp_path / "run.html"
        html = page(run, sizes=[sized(6, 0.8), sized(20, 0.9), sized(3, -0.1)])
        file.write_text(html.replace("</body>", PLAY + "</body>"))
        dom, console = browse(file)
        assert console == ""
        seen = json.loads(
            re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)[1].replace("&gt;", ">")
        )
        assert seen["hint"]
        assert seen["hintGone"]
        assert seen["panel"]
        assert not seen["others"]
        assert seen["lit"] == 3  # edges into and out of a1.h0
        assert seen["faintNodes"] == 3
        assert seen["faintByVerdict"] == 0
        assert seen["hidden"] == 3  # effects 0, 0.1 and 0.2 of 0.5
        assert seen["title"] == "ioi on mini - acdc-explain"
        assert seen["focus"] == 0

    @pytest.mark.parametrize("text", NASTY[:2])
    def test_nothing_runs_that_is_data(self, text, tmp_path):
        file = tmp_path / "run.html"
        file.write_text(page(nasty_run(text)))
        dom, console = browse(file)
        assert console == ""
        assert "<title>stolen" not in dom


def test_a_large_circuit_is_a_small_page():
    graph = Graph(30, 9)
    edges = tuple(str(edge) for edge in list(graph.edges())[:: graph.n_edges // 300])
    roles = {str(node): "induction" for node in graph.heads[::5]}
    html = page(make_run(edges=edges, roles=roles))
    assert len(html) < 3e6
