"""The tutorial runs, cell by cell, and shows what it showed when it was written."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "docs" / "tutorial.ipynb"


def cells() -> list[dict]:
    return [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]


def test_it_has_outputs():
    shown = [cell for cell in cells() if cell["outputs"]]
    assert len(shown) >= 6
    assert len(json.loads(NOTEBOOK.read_text())["cells"]) >= 20
    assert not [o for cell in cells() for o in cell["outputs"] if o["output_type"] == "error"]


@pytest.mark.slow
def test_every_cell_runs(capsys):
    """As a notebook would: the last expression of a cell is shown."""
    space: dict = {"__name__": "__main__"}
    for cell in cells():
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        if last is None:
            continue
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        if hasattr(value, "_repr_html_"):
            assert value._repr_html_()
    printed = capsys.readouterr().out
    assert "faithfulness" in printed
    said = "".join(
        "".join(output["text"]) for cell in cells() for output in cell["outputs"]
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )  # fmt: skip
    assert (
        printed.splitlines()[0] == said.splitlines()[0]
    )  # the same circuit as when it was written
