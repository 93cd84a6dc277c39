"""Every option is described once: in the table of settings, or beside its command."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import acdc_explain.cli.run
from acdc_explain.cli.main import app
from acdc_explain.cli.options import named_values, settings_options
from acdc_explain.errors import WrongUsage
from acdc_explain.pipeline import settings as settings_module
from acdc_explain.pipeline.settings import Settings, settings_table, settings_text

IN_PYTHON_ALONE = {"collectors", "judges"}
ROWS = {row.name: row for setting in settings_table() for row in (setting, *setting.keys)}


def options(command: str) -> dict[str, Any]:
    """The options of a command by name."""
    group = get_command(app)
    for word in command.split():
        group = group.commands[word]  # type: ignore[attr-defined]
    return {name: parameter for parameter in group.params for name in parameter.opts}


def test_every_setting_has_help_and_reaches_the_command_line():
    assert {row.name for row in settings_table()} == {entry.name for entry in fields(Settings)}
    listed = options("run")
    for name, row in ROWS.items():
        assert row.option.help.endswith(".")
        option = f"--{row.option.name or name.replace('_', '-')}"
        assert (option in listed) == (name not in IN_PYTHON_ALONE)
        if option in listed:
            assert listed[option].help == row.option.help


def test_defaults_and_bounds_are_those_of_the_table():
    listed = options("run")
    for row in settings_table():
        shown = listed.get(f"--{row.name.replace('_', '-')}")
        if shown is None or shown.multiple or row.option.path:
            continue
        assert shown.default == row.default
        for bound, stated in (("min", row.option.minimum), ("max", row.option.maximum)):
            assert getattr(shown, bound, None) == stated or stated is None


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("run", {"device", "dtype", "revision"}),
        ("doctor", {"device", "dtype", "revision"}),
        ("bench labels", {"device", "dtype"}),  # the sets name their models
        ("label", {"device"}),  # the others are those of the run
        ("judge", {"device"}),
        ("bench firewall", {"device"}),
        ("show", set()),
        ("models", set()),
    ],
)
def test_commands_that_load_a_model_say_how(command, names):
    listed = options(command)
    assert {x for x in ("device", "dtype", "revision") if f"--{x}" in listed} == names
    assert all(listed[f"--{name}"].help == ROWS[name].option.help for name in names)


def test_no_help_is_written_twice():
    folder = Path(acdc_explain.cli.run.__file__).parent
    texts = Counter(row.option.help for row in ROWS.values())
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "help":
                texts += Counter([node.value.value] if isinstance(node.value, ast.Constant) else [])
    assert len(texts) > 60
    assert [text for text, n in texts.items() if n > 1] == []


def test_the_settings_are_documented_by_the_same_table():
    documented = inspect.getdoc(Settings)
    assert documented is not None
    assert inspect.cleandoc(settings_text()) in inspect.cleandoc(documented.split("Attributes:")[1])
    for name, row in ROWS.items():
        assert f"{name}: {row.option.help.split()[0]}" in documented
    assert "seed: The seed for drawing the task's prompts. Default: 0." in documented


def received(monkeypatch, *arguments: str) -> Settings:
    """The settings that `run` receives."""
    caught = []
    monkeypatch.setattr(
        acdc_explain.cli.run, "_check_run", lambda plugins, task, settings: caught.append(settings)
    )
    monkeypatch.setattr(acdc_explain.cli.run, "open_store", lambda *_, **__: 1 / 0)
    result = CliRunner().invoke(app, ["run", "ioi", *arguments])
    assert isinstance(result.exception, ZeroDivisionError), result.output
    return caught[0]


def test_a_command_receives_settings(monkeypatch, tmp_path):
    assert received(monkeypatch) == Settings()
    parsed = received(
        monkeypatch,
        *("--tau", "0", "--positions", "--set", "engine=plain", "--judge", "a", "--judge", "b"),
        *("--device", "cuda:1", "--dtype", "bfloat16", "--revision", "step1000"),
        *("--reveal", "--labeler-set", "calls=3", "--prompts", "./x.jsonl", "--retry", "--seed", "2"),
    )  # fmt: skip
    assert parsed == Settings(
        discoverer_settings={"tau": 0.0, "positions": True, "engine": "plain"},
        more_judges=("a", "b"), labeler_settings={"reveal": True, "calls": 3}, prompts="x.jsonl",
        retry=True, seed=2, device="cuda:1", dtype="bfloat16", revision="step1000",
    )  # fmt: skip


def test_prices_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("ACDC_EXPLAIN_PRICES", "p.toml")
    assert received(monkeypatch).prices == "p.toml"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"examples": 0}, "`examples=` is 0; at least 1 is needed."),
        ({"concurrency": 0}, "`concurrency=` is 0; at least 1 is needed."),
        ({"timeout": 0.0}, "`timeout=` is 0.0; at least 0.1 is needed."),
        ({"memory": float("nan")}, "`memory=` is nan; at least 0.1 is needed."),
        ({"max_cost": -1.0}, "`max_cost=` is -1.0; at least 0 is needed."),
        ({"seed": 2**31}, "`seed=` is 2147483648; at most 2147483647 is allowed."),
    ],
)
def test_check_uses_the_same_bounds(wrong, complaint):
    with pytest.raises(WrongUsage) as caught:
        Settings(**wrong).check()
    assert str(caught.value) == complaint


def test_values_are_json_where_they_are():
    pairs = ["a=1", "b=null", "c=x=y", "d=[1, 2]"]
    assert named_values(pairs, "--set") == {"a": 1, "b": None, "c": "x=y", "d": [1, 2]}
    with pytest.raises(WrongUsage, match=r"--set takes NAME=VALUE, and 'a' has no '='."):
        named_values(["a"], "--set")


def test_an_unknown_setting_is_a_mistake_of_the_command():
    with pytest.raises(KeyError):
        settings_options("no_such_setting")


def test_the_settings_import_neither_torch_nor_typer():
    tree = ast.parse(Path(settings_module.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "typer" not in modules
    assert not any("torch" in (module or "") for module in modules)
