"""The names of the package: listed, typed, documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import acdc_explain as ax

ROOT = Path(__file__).parent.parent
FUNCTIONS = [name for name in ax.__all__ if name.islower() and not name.startswith("_")]


def test_dir_lists_every_name_and_each_can_be_had():
    assert set(dir(ax)) == set(ax.__all__)
    for name in dir(ax):
        assert getattr(ax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        ax.explian  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "acdc_explain" / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        (alias.name, node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(ax._MODULES.items())


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "hookimpl"])
def test_functions_say_what_they_take_return_and_raise(name):
    text = inspect.getdoc(getattr(ax, name)) or ""
    for heading in ("Args:", "Returns:", "Raises:"):
        assert f"\n{heading}\n" in text, f"{name} has no {heading}"
    parameters = inspect.signature(getattr(ax, name)).parameters
    words = text.split("Args:")[1].split("Returns:")[0].replace(",", " ").replace(":", " ").split()
    for parameter in parameters:
        assert parameter in words, f"{name} does not say what {parameter} is"


def test_torch_is_imported_only_when_a_model_is_needed():
    code = "import acdc_explain, sys, acdc_explain.pipeline.flow; print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
