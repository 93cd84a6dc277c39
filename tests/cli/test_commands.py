"""The command line, tested as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..samples import make_run, stored


def cli(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process."""
    command = [sys.executable, "-m", "acdc_explain", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def db(tmp_path) -> str:
    second = make_run("induction", "big", created="2026-01-03T00:00:00Z")
    return str(stored(tmp_path / "s.duckdb", make_run("ioi", "mini"), second).path)


def invoke(*arguments: str) -> str:
    """Run a command in this process, to test what it prints."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


class TestReading:
    def test_runs(self, db):
        shown = invoke("runs", "--db", db)
        assert shown.index("induction") < shown.index("ioi")
        assert [run["task"] for run in json.loads(invoke("runs", "--db", db, "--json"))] == [
            "induction", "ioi",
        ]  # fmt: skip

    def test_show(self, db):
        shown = invoke("show", "last", "--db", db)
        for part in (
            "induction on big",
            "6 of 100 edges",
            "faithfulness 86%",
            "a1.h0",
            "supported",
        ):
            assert part in shown

    def test_export_and_import(self, db, tmp_path):
        file = tmp_path / "run.json"
        text = invoke("export", "last", "--db", db)
        file.write_text(text)
        other = str(tmp_path / "o.duckdb")
        assert "added" in invoke("import", str(file), "--db", other)
        assert "was there already" in invoke("import", str(file), "--db", other)
        imported, exported = json.loads(invoke("export", "last", "--db", other)), json.loads(text)
        assert imported["run"].pop("origin").startswith(str(file))
        assert exported["run"].pop("origin") is None
        assert imported == exported
        assert json.loads(text) == to_document(Store(db).get("last"))

    def test_export_to_a_file(self, db, tmp_path):
        invoke("export", "last", "--db", db, "-o", str(tmp_path / "x.json"))
        assert json.loads((tmp_path / "x.json").read_text())["run"]["task"] == "induction"

    def test_search(self, db):
        assert "a1.h0" in invoke("search", "--role", "induction", "--db", db)
        matches = json.loads(invoke("search", "mover", "--task", "ioi", "--db", db, "--json"))
        assert [match["nodes"] for match in matches] == [{"name_mover": "a2.h1"}]
        pattern = "previous_token -k-> induction -> * -> name_mover"
        matches = json.loads(invoke("search", "--pattern", pattern, "--db", db, "--json"))
        assert {match["task"] for match in matches} == {"ioi", "induction"}
        assert "Nothing found" in invoke("search", "no such words", "--db", db)

    def test_the_store_can_be_named_in_the_environment(self, db, monkeypatch):
        monkeypatch.setenv("ACDC_EXPLAIN_DB", db)
        assert "ioi" in invoke("runs")

    @pytest.mark.parametrize("command", ["tasks", "models", "roles", "plugins"])
    def test_lists(self, command):
        assert invoke(command).strip()
        assert json.loads(invoke(command, "--json"))


@pytest.mark.parametrize(
    ("arguments", "complaint", "code"),
    [
        (["show", "last"], "There is no store", 1),
        (["run", "iou"], "There is no task 'iou'; did you mean ioi? There are gendered", 2),
        (["run", "ioi", "--discoverer", "acdcc"], "did you mean acdc?", 2),
        (["run", "ioi", "--metric", "logit-diff"], "did you mean logit_diff?", 2),
        (["run", "magic"], "There is no task 'magic'; there are gendered_pronoun", 2),
        (["run", "ioi", "--discoverer", "magic"], "There is no discoverer 'magic'", 2),
        (["run", "ioi", "--labeler", "magic"], "There is no labeler 'magic'", 2),
        (["run", "ioi", "--metric", "magic"], "There is no metric 'magic'", 2),
        (["run", "ioi", "--steps", "5"], "has no setting 'steps'", 2),
        (["run", "ioi", "--ablation", "magic"], "There is no ablation 'magic'", 2),
        (["run", "ioi", "--device", "gpu"], "There is no device 'gpu'; choose one of auto, cpu", 2),
        (["run", "ioi", "--dtype", "half"], "There is no dtype 'half'; choose one of float32", 2),
        (["run", "ioi", "--revision", ""], "--revision is ''; give a commit, a branch or a tag", 2),
        (["doctor", "--device", "mps", "--dtype", "float64"], "mps has no float64; use --dtype", 2),
        (["doctor", "--device", "cuda:999"], "There is no", 1),
        (["bench", "labels", "--device", "gpu"], "There is no device 'gpu'", 2),
        (["run", "ioi", "--level", "neuron"], "There is no level 'neuron'", 2),
        (["run", "ioi", "--tau", "0.1", "--max-edges", "5"], "exclude each other", 2),
        (["run", "ioi", "--set", "magic=1"], "has no setting 'magic'", 2),
        (["run", "ioi", "--set", "magic"], "--set takes NAME=VALUE", 2),
        (["run", "mine", "--prompts", "none.jsonl"], "There is no file none.jsonl", 2),
        (["run", "ioi", "--corpus", "none.txt"], "There is no file none.txt; --corpus takes", 2),
        (["run", "ioi", "--tau", "nan"], "Setting 'tau' of 'acdc' is nan; give a finite number", 2),
        (["run", "ioi", "--set", "tau=abc"], "is 'abc'; give a finite number", 2),
        (
            ["run", "ioi", "--discoverer", "eap", "--set", "steps=1.5"],
            "is 1.5; give a whole number",
            2,
        ),
        (["run", "ioi", "--db", "."], ". is a folder", 1),
        (["run", "ioi", "--db", "none/s.duckdb"], "The folder none does not exist", 1),
        (["import", "none.json"], "none.json cannot be read", 1),
    ],
)
def test_mistakes_are_one_sentence(arguments, complaint, code, tmp_path, monkeypatch):
    from acdc_explain.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["acdc-explain", *arguments])
    import io
    from contextlib import redirect_stderr, redirect_stdout

    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as caught, redirect_stdout(out), redirect_stderr(err):
        main()
    assert caught.value.code == code
    lines = err.getvalue().strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("acdc-explain: ")
    assert complaint in lines[0]
    assert out.getvalue() == ""


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("file", ["{", "[]", '{"schema": "x"}', "\ufeff", "\x00"])
def test_import_of_nonsense(file, tmp_path, db):
    (tmp_path / "x.json").write_text(file)
    done = cli("import", str(tmp_path / "x.json"), "--db", db, code=1)
    assert done.stderr.startswith("acdc-explain: ")
    assert len(Store(db).runs()) == 2


@pytest.mark.slow
def test_ctrl_c_says_that_the_command_goes_on(tmp_path):
    import signal

    command = [
        sys.executable,
        "-m",
        "acdc_explain",
        "run",
        "ioi",
        "--db",
        str(tmp_path / "s.duckdb"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("discover"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 1
    assert rest.splitlines()[-1].startswith("acdc-explain: Stopped; what was finished is in")
    assert "Traceback" not in rest


def test_wrong_usage_is_exit_code_2():
    cli("run", code=2)
    cli("nonsense", code=2)
    cli("runs", "--nonsense", code=2)
    cli("run", "ioi", "--examples", "0", code=2)


@pytest.mark.parametrize("command", ["tasks", "models"])
def test_lists_say_what_a_thing_is(command):
    for entry in json.loads(invoke(command, "--json")):
        assert entry["what it is"]
        assert not entry["what it is"].startswith("partial(")


def test_a_role_that_nobody_knows(db):
    done = cli("search", "--role", "name_mvoer", "--db", db)
    assert (
        "No installed plugin knows the role 'name_mvoer' (did you mean name_mover?)" in done.stderr
    )


def test_doctor_loads_what_the_options_say(monkeypatch):
    asked = []

    def load(name, settings, progress):
        asked.append((name, settings.device, settings.dtype, settings.revision))
        return None, {}

    monkeypatch.setattr("acdc_explain.pipeline.inputs.model.load_for", load)
    monkeypatch.setattr(
        "acdc_explain.evaluation.doctor.examine", lambda model: {"self_check": "passed"}
    )
    invoke("doctor", "some/model", "--json")
    options = ("--device", "cpu", "--dtype", "bfloat16", "--revision", "v1")
    invoke("doctor", "some/model", "--json", *options)
    assert asked == [
        ("some/model", "auto", "float32", None),
        ("some/model", "cpu", "bfloat16", "v1"),
    ]


@pytest.mark.slow
def test_doctor(model_folder):
    folder = str(model_folder("llama"))
    report = json.loads(invoke("doctor", folder, "--json"))
    assert report["self_check"] == "passed"
    assert report["architecture"] == "LlamaForCausalLM"
    assert report["edges"] == 4 * 3 * (1 + 6) + (5 + 10) + 11
    assert report["forward_seconds"] > 0


@pytest.mark.parametrize("code", ["import acdc_explain", "import acdc_explain.cli.main"])
def test_imports_are_quick(code):
    """The budget is 1.5 s for the best of three, as other programs may slow the machine."""
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.5


def test_a_reader_that_goes_away(db):
    command = f"{sys.executable} -m acdc_explain show last --db {db} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
