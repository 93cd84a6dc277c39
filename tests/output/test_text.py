"""What comes from outside is shown and not obeyed; what cannot be written is one sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from acdc_explain.cli.main import main
from acdc_explain.output.text import print_json, say, shown
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import on_terminal
from acdc_explain.records.label import Failure
from acdc_explain.records.run.run import Run
from acdc_explain.records.run.summary import Sentence
from acdc_explain.report.text.costs import show_bill
from acdc_explain.report.text.tables import console
from acdc_explain.store.document.check import derived_id
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import make_hf_model, make_tokenizer
from ..samples import make_run, stored, whole_run

EVIL = "\x1b]0;x\x07 \x1b[2J [red]a[/red] [/] :smile: \u202eb \x9b31m \x85 \u2028 \ud800 \x7f\r\x08"
OBEYED = [c for c in EVIL if not c.isprintable()] + ["\x1b]", "\x1b[2J"]
SHOWN = (
    r"\x1b]0;x\x07 \x1b[2J [red]a[/red] [/] :smile: \u202eb \x9b31m \x85 \u2028 \ud800 \x7f\r\x08"
)


def test_escapes():
    assert shown(EVIL) == SHOWN
    assert shown("a\nb\tc") == r"a\nb\tc"
    assert shown("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"
    for harmless in ("é « » … 🙂 👩\u200d🔬 \u0645\u06cc\u200c\u062e a\u00a0b", "[red]", "\\x1b"):
        assert shown(harmless) == harmless


STORABLE = EVIL.replace("\ud800", "?")  # half a character cannot be written to a file


def evil_run(evil: str = STORABLE) -> Run:
    """Every text that can come from outside is hostile."""
    run = make_run(task=f"t{evil}", model=f"m{evil}")
    assert run.circuit is not None
    exchanges = [replace(x, llm=evil) for x in run.exchanges]
    texts = {"role": evil, "description": f"first\n{evil}", "labeler": evil}
    labels = [
        replace(x, **texts, exchange_id=x.exchange_id and exchanges[0].id) for x in run.labels
    ]
    verdicts = [
        replace(v, label_id=x.id, judge=evil, reason=evil) for v, x in zip(run.verdicts, labels)
    ]
    node = run.circuit.components[0]
    assert run.summary is not None
    header = replace(run.header, settings={"discoverer": evil, "labeler": f"l\n{evil}"})
    header = replace(header, id=derived_id(header))
    sentences = (Sentence(f"one\ntwo {evil}", (node,)),)
    return replace(
        run,
        header=header,
        labels=labels[1:],
        verdicts=verdicts[1:],
        motifs=[replace(m, pattern=evil, run_id=header.id, nodes={evil: node}) for m in run.motifs],
        failures=[Failure(node, evil, f"reply\n{evil}")],
        exchanges=exchanges,
        summary=replace(
            run.summary, run_id=header.id, sentences=sentences, exchange_id=exchanges[0].id
        ),
    )


def run_main(monkeypatch, *arguments: str, colors: bool = False) -> tuple[int, str, str]:
    """A command in this process, as a terminal gets it: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["acdc-explain", *arguments])
    if colors:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "1000")
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "strict") for _ in range(2))
    with pytest.raises(SystemExit) as caught, redirect_stdout(out), redirect_stderr(err):
        main()
    for stream in (out, err):
        stream.flush()
    code = caught.value.code
    assert isinstance(code, int)
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def assert_not_obeyed(text: str, *, own_colors: bool = False) -> None:
    for character in OBEYED:
        if not own_colors or character not in "\x1b\r":
            assert character not in text, ascii(character)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> bytes:
    """A store that took a hostile run by `import`, and a good one."""
    folder = tmp_path_factory.mktemp("hostile")
    store = Store(folder / "s.duckdb")
    file = folder / "run.json"
    file.write_text(json.dumps(to_document(evil_run())))
    store.add_run(whole_run())
    subprocess.run(
        [sys.executable, "-m", "acdc_explain", "import", str(file), "--db", str(store.path)],
        check=True, capture_output=True,
    )  # fmt: skip
    return store.path.read_bytes()


@pytest.fixture
def db(hostile, tmp_path) -> str:
    (tmp_path / "s.duckdb").write_bytes(hostile)
    return str(tmp_path / "s.duckdb")


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("colors", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "RUN"], ["show", "RUN", "--json"], ["runs"], ["runs", "--json"],
        ["search", "first"], ["search", "--pattern", "head -> *"], ["motifs"], ["search", "--json"],
        ["compare", "RUN", "OTHER"], ["compare", "RUN", "OTHER", "--json"], ["export", "RUN"], ["verify"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_imported_run(db, monkeypatch, arguments, colors):
    names = {"RUN": evil_run().id, "OTHER": whole_run().id}
    arguments = [names.get(word, word) for word in arguments]
    code, out, err = run_main(monkeypatch, *arguments, "--db", db, colors=colors)
    assert "Traceback" not in err
    assert_not_obeyed(out, own_colors=colors)
    assert_not_obeyed(err, own_colors=colors)
    if arguments[0] in ("show", "runs", "export") or arguments[:2] == ["search", "--json"]:
        assert code == 0
        assert "x1b]0;x" in out or "u001b]0;x" in out
    if "--json" in arguments:
        assert json.dumps(EVIL[:20])[1:-1] in json.dumps(json.loads(out))
    if arguments == ["show", evil_run().id] and not colors:
        assert r"- one\ntwo" in out
        assert "[red]a[/red]" in out
        assert ":smile:" in out


def test_json_is_the_same_document(capsys):
    print_json({"a": [EVIL, "é"]})
    printed = capsys.readouterr().out
    assert_not_obeyed(printed)
    assert "é" in printed
    assert json.loads(printed) == {"a": [EVIL, "é"]}


def test_lines_before_and_after_are_our_own(capsys):
    say(f"\nstored in {EVIL}\nand more")
    assert capsys.readouterr().out == f"\nstored in {SHOWN}\\nand more\n"


def test_prompts_keep_their_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    request = {"template": EVIL, "tokens_in": 1, "prompt": f"one\ntwo {EVIL}"}
    bill = {
        "n": 1, "requests": [request], "llm": EVIL, "tokens_in": 1, "tokens_out_at_most": 1,
        "cost_usd_at_most": None, "batch_usd_at_most": None,
    }  # fmt: skip
    show_bill(bill, "llm", console())
    out = capsys.readouterr().out
    assert_not_obeyed(out)
    assert "one\ntwo \\x1b]0;x" in out


@pytest.mark.parametrize("colors", [False, True])
def test_progress(colors, monkeypatch, capsys):
    if colors:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "1000")
    with on_terminal() as report:
        report(f"judge {EVIL}", 0, 1, EVIL)
        report(f"judge {EVIL}", 1, 1, EVIL)
    err = capsys.readouterr().err.replace("\r", "").replace("\x1b[2K", "")
    for character in set(OBEYED) - {"\x1b", "\r"}:
        assert character not in err
    assert "[red]a[/red]" in err


def test_plugins(monkeypatch):
    """Names, what they bring and why they are broken."""
    plugins = replace(load_plugins(), broken={f"bad{EVIL}": f"RuntimeError: {EVIL}"})
    monkeypatch.setattr("acdc_explain.cli.app.load_plugins", lambda: plugins)
    monkeypatch.setattr("acdc_explain.cli.installed.load_plugins", lambda: plugins)
    monkeypatch.setattr(type(plugins), "names", [f"good{EVIL}"])
    monkeypatch.setattr(type(plugins), "brings", lambda self, name: {"register_roles": [EVIL, "x"]})
    for arguments in (["plugins"], ["plugins", "--json"], ["tasks"]):
        code, out, err = run_main(monkeypatch, *arguments)
        assert code == 0
        assert_not_obeyed(out)
        assert_not_obeyed(err)
        assert "x1b]0;x" in out + err or "u001b]0;x" in out


def test_a_model_folder_and_a_prompt_file(tmp_path, monkeypatch):
    name = EVIL.replace("\ud800", "").replace("/", "")
    folder = tmp_path / f"model{name}"
    folder.mkdir()
    code, out, err = run_main(monkeypatch, "doctor", str(folder))
    assert code == 1
    assert len([line for line in err.split("\n") if line]) == 2
    assert_not_obeyed(out + err)
    assert r"\x1b]0;x" in err
    make_hf_model("gpt2").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    code, out, err = run_main(monkeypatch, "doctor", str(folder))
    assert code == 0
    assert_not_obeyed(out + err)
    prompts = tmp_path / f"p{name}.jsonl"
    prompts.write_text(json.dumps({"clean": EVIL, "corrupt": 1, EVIL: 2}))
    arguments = ["run", f"t{name}", "--prompts", str(prompts), "--db", str(tmp_path / "s.duckdb")]
    code, out, err = run_main(monkeypatch, *arguments)
    assert code == 1
    assert_not_obeyed(out + err)


class TestStreams:
    COMMANDS = (
        ["--help"],
        ["tasks"],
        ["show", "last"],
        ["show", "last", "--json"],
        ["runs", "--help"],
    )

    @pytest.fixture
    def db(self, tmp_path) -> str:
        return str(stored(tmp_path / "s.duckdb", whole_run()).path)

    def shell(self, db: str, arguments: list[str], redirect: str, **environment: str):
        import os
        import shlex

        command = shlex.join([sys.executable, "-m", "acdc_explain", *arguments])
        return subprocess.run(
            f"exec {command} {redirect}", shell=True, capture_output=True,
            env={**os.environ, "ACDC_EXPLAIN_DB": db, **environment},
        )  # fmt: skip

    @pytest.mark.slow_after(1)
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    @pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
    def test_a_full_disk(self, db, arguments):
        done = self.shell(db, arguments, ">/dev/full")
        assert done.returncode == 1
        assert done.stderr.decode() == (
            "acdc-explain: The output cannot be written: No space left on device; direct it elsewhere.\n"
        )

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
    def test_a_closed_output(self, db, arguments):
        before = Path(db).read_bytes()
        done = self.shell(db, arguments, ">&-")
        assert done.returncode == 1
        assert done.stderr.decode() == (
            "acdc-explain: Standard output is closed, so nothing can be printed; direct it elsewhere.\n"
        )
        assert Path(db).read_bytes() == before
        assert self.shell(db, arguments, ">&- 2>&-").returncode == 1

    def test_other_streams_may_be_closed(self, db):
        done = self.shell(db, ["runs"], "<&- 2>&-")
        assert done.returncode == 0
        assert whole_run().id.encode() in done.stdout

    @pytest.mark.slow
    @pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
    def test_an_encoding_that_lacks_characters(self, tmp_path, encoding):
        db = str(tmp_path / "s.duckdb")
        run = whole_run()
        labels = [replace(x, description="é 🙂 → z" + " word" * 40) for x in run.labels]
        Store(db).add_run(replace(run, labels=labels, verdicts=[]))
        environment = {"PYTHONIOENCODING": encoding}
        done = self.shell(db, ["show", "last"], "", **environment)
        assert done.returncode == 0, done.stderr
        assert {"latin-1": "é ? ? z", "ascii": "? ? ? z"}[encoding] in done.stdout.decode(encoding)
        done = self.shell(db, ["show", "last", "--json"], "", **environment)
        document = json.loads(done.stdout.decode(encoding))
        assert document == json.loads(json.dumps(to_document(Store(db).get("last"))))
        assert self.shell(db, ["roles"], "", **environment).returncode == 0
        missing = self.shell(db, ["show", "→"], "", **environment)
        assert missing.returncode == 1
        assert b"Traceback" not in missing.stderr
