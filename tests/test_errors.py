"""Errors name options as Python does; the command line prints them in its own form."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from acdc_explain.cli.main import main
from acdc_explain.errors import UserError, WrongUsage, for_command_line, nearest, unknown

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give another `metric=`.", "Give another --metric."),
        ("`max_edges=` is 0.", "--max-edges is 0."),
        (
            "`tau=` and `max_edges=` exclude each other.",
            "--tau and --max-edges exclude each other.",
        ),
        ("Use `steps=5` or more.", "Use --steps 5 or more."),
        ('Use `labeler="rules"`.', "Use --labeler rules."),
        ("Go on with `anyway=True`.", "Go on with --anyway."),
        ("Give another `store=`.", "Give another --db."),
        ("`templates=/a b/c` is no folder.", "--templates /a b/c is no folder."),
        ("See `acdc-explain doctor`; no label can be `supported`.", None),
        ("a=1 is no option, nor is the file `A=1`.", None),
    ],
)
def test_options_have_two_forms(text, expected):
    error = UserError(text)
    assert str(error) == text
    assert for_command_line(error) == (expected or text)


def test_the_text_of_another_error_may_be_quoted():
    inner = UserError("use another `metric=`")
    assert for_command_line(f"It failed: {inner}.") == "It failed: use another --metric."


def test_the_command_line_prints_its_own_form(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["acdc-explain", "run", "ioi", "--tau", "1", "--max-edges", "2"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "--tau and --max-edges exclude each other" in capsys.readouterr().err


def test_nearest():
    assert nearest("Acdcc", ["eap", "acdc"]) == "acdc"
    assert nearest("magic", ["eap", "acdc"]) is None


def test_unknown_names_what_is_there():
    error = unknown("role", "inducton", ["induction", "copying"])
    assert isinstance(error, WrongUsage)
    assert str(error) == (
        "There is no role 'inducton'; did you mean induction? There are copying, induction."
    )


def test_errors_outside_the_command_line_do_not_write_its_options():
    files = [*(ROOT / "acdc_explain").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    for file in files:
        if "cli" in file.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                parts = [x.value for x in ast.walk(node.exc) if isinstance(x, ast.Constant)]
                text = "".join(part for part in parts if isinstance(part, str))
                commands = re.sub(r"`acdc-explain[^`]*`", "", text)
                assert not re.search(r"(?<![\w-])--[a-z]", commands), f"{file}: {text}"
