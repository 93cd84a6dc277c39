"""The rooms of the package: who may import whom, how large they are, and what stays inside them.

Every import counts: those at the top of a file, those inside functions, and those for type
checkers alone.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "acdc_explain"
ORDER = """
    errors ids guard
    output
    progress
    llm
    records
    models
    evidence.measurement
    claims.checks
    signatures hookspecs plugin_settings plugins
    store.duck
    store.tables
    store.search
    store
    report
    discovery.engine
    discovery
    evidence
    claims
    experiments
    labeling
    pipeline
    evaluation
    cli
    __init__
    __main__
"""
"""A file may import files of its own line and of the lines above it."""

WALLS = {
    "transformer_lens": "models",
    "openai": "llm.client",
    "duckdb": "store",
}
"""Libraries that one room alone touches."""

RANK = {room: rank for rank, line in enumerate(ORDER.split("\n")) for room in line.split()}
MOST_ENTRIES = 11


def modules(root: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name within it."""
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = list(file.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = file
    return found


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, wherever the import stands."""
    is_package = file.name == "__init__.py"
    home = name.split(".") if is_package and name != "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "acdc_explain":
                    yield alias.name.removeprefix("acdc_explain").lstrip(".") or "__init__"
            continue
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = home[: len(home) - (node.level - 1)]
            base = [*base, *((node.module or "").split(".") if node.module else [])]
        elif node.module and node.module.split(".")[0] == "acdc_explain":
            base = node.module.split(".")[1:]
        else:
            continue
        for alias in node.names:
            full = ".".join([*base, alias.name])
            yield full if full in known else ".".join(base) or "__init__"


def room(name: str) -> str:
    """The longest beginning of a module's name that stands in the order."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in RANK:
            return ".".join(parts[:n])
    raise AssertionError(f"{name} is in no room of the order")


def against_the_order(edges: list[tuple[str, str]]) -> list[str]:
    return [
        f"{here} imports {there}" for here, there in edges if RANK[room(there)] > RANK[room(here)]
    ]


def circles(edges: list[tuple[str, str]]) -> list[list[str]]:
    import networkx

    graph = networkx.DiGraph((here, there) for here, there in edges if here != there)
    return [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str]]:
    known = modules(PACKAGE)
    return [(name, other) for name, file in known.items() for other in imports(name, file, known)]


def test_imports_go_up_in_the_order_of_the_rooms(edges):
    assert len(edges) > 500  # what is counted is there
    assert against_the_order(edges) == []
    print(f"{len(edges)} imports, none against the order")


def test_no_imports_go_in_circles(edges):
    assert circles(edges) == []


def test_the_check_of_the_order_finds_what_is_wrong(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "task.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..store.store import Store\n"
        "def late():\n    from ..cli import main\n    from acdc_explain.pipeline.flow import x\n"
    )
    for name in ("store/store", "cli/main", "pipeline/flow"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).with_suffix(".py").write_text("from ..records import task\n")
    known = modules(tmp_path)
    found = [(n, other) for n, file in known.items() for other in imports(n, file, known)]
    assert sorted(against_the_order(found)) == [
        "records.task imports cli.main",
        "records.task imports pipeline.flow",
        "records.task imports store.store",
    ]
    assert circles(found) == [["cli.main", "pipeline.flow", "records.task", "store.store"]]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(("library", "home"), WALLS.items())
def test_a_library_is_imported_in_one_room(library, home):
    plugins = {f"plugins/{name}": file for name, file in modules(ROOT / "plugins").items()}
    users = {
        name
        for name, file in {**modules(PACKAGE), **plugins}.items()
        for node in ast.walk(ast.parse(file.read_text()))
        for imported in _imported(node)
        if imported.split(".")[0] == library
    }
    assert users
    assert {name for name in users if f"{name}.".startswith(f"{home}.")} == users


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


INSIDES = {"bridge", "hf_model", "network"}
"""Attributes of a model that lead to its modules."""


def uses_of_modules(source: str) -> list[str]:
    """Where code reads the modules of a model, or hooks any module."""
    return [
        f"{node.lineno}: .{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and (node.attr in INSIDES or re.match("register.*_hook$", node.attr))
    ]


def test_the_modules_of_a_model_are_used_in_models_alone():
    inside = []
    for file in [*PACKAGE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        uses = uses_of_modules(file.read_text())
        if file.is_relative_to(PACKAGE / "models"):
            inside += uses
        elif file.name not in HOOKING:
            assert uses == [], file
    assert len(inside) > 30  # what is looked for is there


HOOKING = {
    "gradients.py",  # hooks on gradients of tensors, not on modules
    "measure.py",
    "saved_model.py",  # training and measuring `mini`, with plain Hugging Face alone
}


def test_the_check_of_modules_finds_what_is_wrong():
    source = """
def measure(model, layer):
    blocks = model.network.blocks
    blocks[layer].module.register_forward_pre_hook(print)
    with model.bridge.hooks(fwd_hooks=hooks):
        return model.hf_model, network, hooks
"""
    assert sorted(uses_of_modules(source)) == [
        "3: .network",
        "4: .register_forward_pre_hook",
        "5: .bridge",
        "6: .hf_model",
    ]


@pytest.mark.parametrize("root", ["acdc_explain", "plugins", "tests"])
def test_no_folder_is_a_heap(root):
    for folder in (path for path in (ROOT / root).rglob("*") if path.is_dir()):
        found = [
            entry.name
            for entry in folder.iterdir()
            if entry.name != "__init__.py" and not entry.name.startswith((".", "__pycache__"))
        ]
        assert len(found) <= MOST_ENTRIES, f"{folder.relative_to(ROOT)}: {sorted(found)}"


def test_listing_plugins_imports_neither_torch_nor_duckdb():
    code = (
        "import sys; from acdc_explain.plugins import load_plugins; plugins = load_plugins();"
        "assert plugins.judges() and not plugins.broken;"
        "print([m for m in ('torch', 'transformers', 'duckdb', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
