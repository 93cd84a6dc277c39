"""Loading plugins: what is listed, what is refused, and that it does not import torch."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from acdc_explain import hookimpl
from acdc_explain import plugins as module
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import ClaimKind, Hooks
from acdc_explain.plugin_settings import settings_of, with_settings
from acdc_explain.plugins import HOOKS, load_plugins
from acdc_explain.records.role import RoleCard, RoleClaim

ROOT = Path(__file__).parent.parent.parent


def thing(*anything, seed=0):
    """Any callable."""


class Labels:
    def prompt(self, question, ask): ...

    async def __call__(self, question, prompt, ask): ...


GOOD = {
    **dict.fromkeys(HOOKS, thing),
    "register_labelers": Labels(),
    "register_roles": RoleCard("my_thing", "head", "does it", claims=(RoleClaim("raises"),)),
    "register_claims": ClaimKind("does", BaseModel, "does it", thing),
    "register_patterns": "* -> *",
    "register_prompts": ROOT / "prompts",
}


@pytest.fixture
def installed(monkeypatch):
    """Install test plugins beside the built-in ones; the fixture's function returns all loaded."""

    def install(**functions):
        entries = list(module.entry_points(group="acdc_explain"))
        for name, make in functions.items():
            plugin = ModuleType(f"test_plugin_{name}")
            make(plugin)
            sys.modules[plugin.__name__] = plugin
            entries.append(EntryPoint(name, plugin.__name__, "acdc_explain"))
        monkeypatch.setattr(module, "entry_points", lambda group: entries)
        return load_plugins.__wrapped__()

    return install


def registers(hook: str, **things):
    """Fills a module with one hook that returns these things."""

    def make(plugin: ModuleType) -> None:
        function = eval("lambda: things", {"things": things})
        function.__name__ = hook
        setattr(plugin, hook, hookimpl(function))

    return make


def test_the_hooks_have_these_names_and_are_documented():
    assert sorted(HOOKS) == sorted(f"register_{kind}" for kind in (
        "tasks", "models", "discoverers", "collectors", "labelers", "judges", "roles",
        "claims", "answer_keys", "patterns", "prompts"))  # fmt: skip
    assert all(getattr(Hooks, hook).__doc__ for hook in HOOKS)


def test_every_hook_is_used_by_a_built_in_plugin():
    plugins = load_plugins()
    assert not plugins.broken
    for hook in HOOKS:
        assert plugins.registered(hook), hook


def test_every_plugin_file_is_loaded_and_registers_something():
    helpers = {"__init__", "words"}
    files = {path.stem for path in (ROOT / "plugins").glob("*.py")} - helpers
    plugins = load_plugins()
    assert set(plugins.names) >= files
    for name in files:
        assert plugins.brings(name), name


@pytest.mark.parametrize("hook", HOOKS)
def test_a_plugin_can_use_every_hook(hook, installed):
    plugins = installed(mine=registers(hook, my_thing=GOOD[hook]))
    assert plugins.registered(hook)["my_thing"] == GOOD[hook]
    assert plugins.brings("mine") == {hook: ["my_thing"]}
    assert not plugins.broken


def test_two_plugins_with_one_name_for_a_task_are_both_named(installed):
    plugins = installed(mine=registers("register_tasks", ioi=thing))
    with pytest.raises(UserError, match="'mine' and 'tasks_ioi' both register 'ioi'"):
        plugins.tasks()


def test_a_pattern_with_a_syntax_error_is_reported(installed):
    plugins = installed(mine=registers("register_patterns", mine="induction -> "))
    assert "character 14: found the end" in plugins.broken["mine"]
    assert plugins.patterns() == load_plugins().patterns()


def test_two_entry_points_of_the_same_name(installed):
    plugins = installed(tasks_ioi=registers("register_tasks", mine=thing))
    assert "ioi" in plugins.tasks()
    assert "another plugin has the name 'tasks_ioi'" in str(plugins.broken)


def test_a_misspelt_hook_is_reported_and_the_others_load(installed):
    plugins = installed(mine=registers("register_taks", a=thing))
    assert "register_taks" in plugins.broken["mine"]
    assert "mine" not in plugins.names
    assert "ioi" in plugins.tasks()


def test_a_plugin_that_cannot_be_imported_is_reported(installed, monkeypatch):
    plugins = installed(mine=registers("register_tasks", mine=thing))
    assert not plugins.broken
    monkeypatch.delitem(sys.modules, "test_plugin_mine")
    broken = load_plugins.__wrapped__()
    assert broken.broken["mine"].startswith("ModuleNotFoundError: No module named")
    assert "ioi" in broken.tasks()


def test_a_hook_that_fails_is_reported(installed):
    def make(plugin: ModuleType) -> None:
        def register_tasks():
            raise RuntimeError("no\nluck")

        plugin.register_tasks = hookimpl(register_tasks)

    plugins = installed(mine=make)
    assert "ioi" in plugins.tasks()
    assert re.fullmatch(
        r"register_tasks: RuntimeError: no luck \(test_plugins.py, line \d+\)",
        plugins.broken["mine"],
    )


def test_settings_are_the_keyword_only_parameters():
    def discover(contrast, progress, *, tau=0.1, steps: int = 2): ...

    assert settings_of(discover) == {"tau": 0.1, "steps": 2}
    assert with_settings("Discoverer", "d", discover, {"tau": 1}) == {"tau": 1, "steps": 2}
    with pytest.raises(UserError, match="'d' has no setting 'size'; it takes tau, steps"):
        with_settings("Discoverer", "d", discover, {"size": 1})


def test_listing_plugins_imports_neither_torch_nor_duckdb():
    code = (
        "import sys, acdc_explain.cli.main\n"
        "from acdc_explain.plugins import load_plugins, HOOKS\n"
        "plugins = load_plugins()\n"
        "[plugins.registered(hook) for hook in HOOKS]\n"
        "slow = {'torch', 'duckdb', 'transformers', 'transformer_lens', 'openai'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
