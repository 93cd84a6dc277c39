"""The README and the documents say what is true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from acdc_explain.cli.main import app
from acdc_explain.plugins import HOOKS, load_plugins

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
LABELING = (ROOT / "docs" / "labeling.md").read_text()
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()
SEARCH = (ROOT / "docs" / "search.md").read_text()
ROLES = (ROOT / "docs" / "roles.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
PACKAGE = ROOT / "acdc_explain"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_every_hook_is_in_the_documents():
    for hook in HOOKS:
        assert f"`{hook}`" in README
        assert f"| `{hook}` |" in PLUGINS


def test_every_command_is_in_the_readme_and_no_other():
    commands = set(get_command(app).commands)
    section = README.split("## Commands")[1].split("## ")[0]
    named = re.findall(r"^\| (.+?) \|", section, re.M)[2:]
    assert {word for cell in named for word in re.findall(r"`([a-z]+)", cell)} == commands


def test_every_room_is_in_the_readme_and_no_other():
    rooms = {f"acdc_explain/{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    section = README.split("## Where is what in the code?")[1].split("## ")[0]
    rows = re.findall(r"^\| `(.+?/)`", section, re.M)
    assert {row for row in rows if row.startswith("acdc_explain/")} == rooms
    assert len(rows) == len(set(rows)) <= 20
    assert "(docs/architecture.md)" in section


def test_the_architecture_has_the_rooms_in_the_order_of_imports_and_the_walls():
    from ..test_layers import ORDER, WALLS

    rows = re.findall(r"^\| (`.+?`) \| .* \| .*\|$", ARCHITECTURE.split("\n## ")[1], re.M)
    assert [re.findall(r"`(.+?)`", row) for row in rows] == [
        line.split() for line in ORDER.split("\n") if line.strip()
    ]
    for library, home in WALLS.items():
        assert f"| `{library}` | `{home}` |" in ARCHITECTURE


def test_the_glossary_is_in_alphabetical_order_and_defines_no_word_twice():
    words = [word.lower() for word in re.findall(r"^\*\*(.+?)\*\*:", GLOSSARY, re.M)]
    assert len(words) > 90
    assert words == sorted(set(words))


def test_every_outcome_is_in_the_glossary():
    from acdc_explain.records.verdict import WORST_FIRST

    assert tuple(re.findall(r"^- `(\w+)`:", GLOSSARY, re.M)) == WORST_FIRST


def test_files_named_in_the_documents_exist():
    named = re.compile(r"`((?:acdc_explain|plugins|prompts|tests|benchmarks|docs)/[\w./-]*)`")
    for file in DOCUMENTS:
        for path in named.findall(file.read_text()):
            assert (ROOT / path).exists(), f"{file.name}: {path}"


def test_every_measure_is_documented():
    from acdc_explain.evidence.effects import NODE_MEASURES
    from acdc_explain.evidence.measures import MEASURES

    for measure in (*MEASURES, *NODE_MEASURES):
        assert f"| `{measure}` |" in ROLES


def test_the_grammar_of_patterns_is_in_the_documentation():
    from acdc_explain.records import pattern

    grammar = [line.strip() for line in pattern.__doc__.splitlines() if line.startswith("    ")]
    assert len(grammar) == 12
    assert all(line in SEARCH for line in grammar)


def test_every_entry_of_a_fingerprint_is_documented():
    from acdc_explain.store.search.fingerprint import HEADS, OTHERS

    for measure in (*HEADS, *OTHERS):
        assert f"`{measure}`" in SEARCH


def test_links_lead_somewhere():
    for file in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_template_and_experiment_is_in_the_documentation():
    from acdc_explain.labeling.experiments import EXPERIMENTS

    for template in (ROOT / "prompts").glob("*.j2"):
        assert template.name in LABELING or template.stem == "results", template.name
    for name in EXPERIMENTS:
        assert f"`{name}`" in LABELING


def test_options_in_the_examples_exist():
    commands = get_command(app).commands
    known = {
        option
        for command in (*commands.values(), *commands["bench"].commands.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for line in re.findall(
        r"^acdc-explain .*$", "\n".join(file.read_text() for file in DOCUMENTS), re.M
    ):
        for option in re.findall(r" (--[a-z-]+)", line.split("#")[0]):
            assert option in known, line


@pytest.fixture
def example(tmp_path) -> dict[str, str]:
    """The plugin of docs/plugins.md, installed where only this test sees it."""
    pytest.importorskip("setuptools")
    blocks = dict(re.findall(r"```(toml|python)\n(.*?)```", PLUGINS, re.S))
    assert len(blocks["python"].splitlines()) < 40
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "pyproject.toml").write_text(blocks["toml"])
    (source / "acdc_explain_again.py").write_text(blocks["python"])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(target), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def test_the_example_plugin_imports_nothing_deeper_than_the_package():
    (code,) = re.findall(r"```python\n(.*?)```", PLUGINS, re.S)
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {"random", "acdc_explain"}


@pytest.mark.slow
def test_the_example_plugin_is_installed_and_runs(example, tmp_path):
    def cli(*arguments: str) -> str:
        command = [sys.executable, "-m", "acdc_explain", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=example, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = cli("plugins")
    assert "roles: copier" in listed
    assert "tasks: again" in listed
    db = str(tmp_path / "s.duckdb")
    shown = cli(
        "run", "again", "--examples", "4", "--discoverer", "eap", "--max-edges", "20", "--db", db
    )
    assert "again on mini  (done)" in shown
    assert "copier" in cli("search", "--role", "copier", "--db", db)


def test_every_dependency_has_a_lower_and_an_upper_bound():
    from ..lowest import NEEDED, PROJECT, constraints, requirements

    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    found = requirements()
    assert len(found) > len(PROJECT["dependencies"]) > 10
    for requirement in (*found, *build):
        assert NEEDED.fullmatch(requirement), f"{requirement} needs >= and <"
    lowest = dict(line.split("==") for line in constraints())
    assert len(lowest) == len(found) - 1  # without torch
    assert "torch" not in lowest
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    names = {name.lower().replace("_", "-") for name in tested}
    assert {name.lower() for name in lowest} <= names


def test_what_is_imported_directly_is_a_dependency():
    from ..lowest import PROJECT

    named = {re.split("[<>=]", r)[0].replace("-", "_") for r in PROJECT["dependencies"]}
    known = named | sys.stdlib_module_names | {
        "acdc_explain", "acdc_explain_plugins", "acdc_explain_prompts",
        "tracr",  # an extra
        "tokenizers", "safetensors", "huggingface_hub",  # those that transformers needs
    }  # fmt: skip
    for folder in ("acdc_explain", "plugins"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    modules = [node.module or ""]
                for module in modules:
                    assert module.split(".")[0] in known, f"{file.name} imports {module}"


def test_nothing_that_reports_to_others_is_imported(mini):
    """Not by these tests either."""
    imported = {name.split(".")[0] for name in sys.modules}
    assert {"torch", "transformer_lens"} <= imported
    assert not {"wandb", "opentelemetry", "cwevals", "sentry_sdk"} & imported


def test_built_in_plugins_are_not_broken():
    assert load_plugins().broken == {}
