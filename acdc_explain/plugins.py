"""Load plugins from entry points, list what they bring, report those that are broken."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import ismodule
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from .errors import UserError, unknown
from .guard import Unfit, must_work, sentence, stdout_to_stderr
from .hookspecs import PROJECT, ClaimKind, Discoverer, Hooks, Judge, Labeler
from .ids import ID_LENGTH, canonical_json
from .plugin_settings import function_of, settings_of, with_settings
from .records.pattern import Pattern
from .records.role import Requirement, RoleCard, RoleClaim

if TYPE_CHECKING:
    from .hookspecs import Collector, ModelSource, TaskBuilder
    from .records.role import AnswerKey

HOOKS = tuple(name for name in vars(Hooks) if name.startswith("register_"))
DISTRIBUTION = "acdc-explain"
UNKNOWN = "unknown"


@dataclass
class Plugins:
    """The loaded plugins.

    Attributes:
        manager: What pluggy knows of them.
        broken: Why plugins, or hooks of theirs, could not be used, by name.
        built_in: The names of the plugins that came with this program.
    """

    manager: pluggy.PluginManager
    broken: dict[str, str] = field(default_factory=dict)
    built_in: set[str] = field(default_factory=set)
    _returned: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def register(self, plugin: Any, name: str) -> None:
        """Add a plugin that no package brings, until `unregister`."""
        self.manager.register(plugin, name=name)
        self._returned.clear()

    def unregister(self, plugin: Any) -> None:
        self.manager.unregister(plugin)
        self._returned.clear()

    def registered(self, hook: str) -> dict[str, Any]:
        """Everything one hook brings, by name. Raises UserError if two plugins use one name."""
        registered: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for plugin, names in self.by_plugin(hook).items():
            for name, thing in names.items():
                if name in registered:
                    raise UserError(
                        f"Plugins {owners[name]!r} and {plugin!r} both register {name!r} with "
                        f"{hook}; uninstall one of them or rename what it registers."
                    )
                registered[name], owners[name] = thing, plugin
        return registered

    def by_plugin(self, hook: str) -> dict[str, Mapping[str, Any]]:
        """What each plugin returns from a hook, in the order of the plugins' names."""
        if hook in self._returned:  # each hook is called once
            return self._returned[hook]
        results: dict[str, Mapping[str, Any]] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                with stdout_to_stderr():
                    results[implementation.plugin_name] = _checked(hook, implementation.function())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # third-party code may raise anything
                self.broken[implementation.plugin_name] = f"{hook}: {sentence(error)}"
        self._returned[hook] = dict(sorted(results.items()))
        return self._returned[hook]

    def brings(self, plugin: str) -> dict[str, list[str]]:
        """The names a plugin registers, by hook."""
        by_hook = {hook: sorted(self.by_plugin(hook).get(plugin, {})) for hook in HOOKS}
        return {hook: names for hook, names in by_hook.items() if names}

    def owner(self, hook: str, name: str) -> str:
        """The plugin that registers a name."""
        plugins = self.by_plugin(hook).items()
        return next((plugin for plugin, names in plugins if name in names), UNKNOWN)

    def code(self, hook: str, name: str) -> dict[str, str]:
        """A digest of the code behind a name: results of older code are not used again.

        Empty for built-in plugins, whose results are numbered by `RESULTS` (records/run/header.py).
        """
        owner = self.owner(hook, name)
        if owner in self.built_in or owner == UNKNOWN:
            return {}
        plugin = self.manager.get_plugin(owner)
        return {"plugin_code": _digest(plugin if ismodule(plugin) else type(plugin))}

    def usual_judges(self) -> list[str]:
        """The built-in judges that test every label without being named."""
        return sorted(
            name
            for plugin, judges in self.by_plugin("register_judges").items()
            for name, judge in judges.items()
            if plugin in self.built_in and not Judge.of(judge).on_request
        )

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.manager.list_name_plugin())

    def tasks(self) -> dict[str, TaskBuilder]:
        return self.registered("register_tasks")

    def models(self) -> dict[str, ModelSource]:
        return self.registered("register_models")

    def discoverers(self) -> dict[str, Discoverer]:
        return {
            name: Discoverer.of(x) for name, x in self.registered("register_discoverers").items()
        }

    def discoverer_settings(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a discoverer, checked by itself too.

        Raises UserError for an unknown name or setting, or settings that do not go together.
        """
        discoverer = pick("discoverer", self.discoverers(), name)
        settings = with_settings("Discoverer", name, discoverer, given)
        if discoverer.check is not None:
            with must_work(f"discoverer {name!r}"):
                discoverer.check(**settings)
        return settings

    def collectors(self) -> dict[str, Collector]:
        return self.registered("register_collectors")

    def labelers(self) -> dict[str, Labeler]:
        return {name: Labeler.of(x) for name, x in self.registered("register_labelers").items()}

    def judges(self) -> dict[str, Judge]:
        return {name: Judge.of(x) for name, x in self.registered("register_judges").items()}

    def roles(self) -> dict[str, RoleCard]:
        return self.registered("register_roles")

    def claims(self) -> dict[str, ClaimKind]:
        return self.registered("register_claims")

    def answer_keys(self) -> dict[str, AnswerKey]:
        return self.registered("register_answer_keys")

    def patterns(self) -> dict[str, str]:
        return self.registered("register_patterns")

    def prompts(self) -> dict[str, Path]:
        return self.registered("register_prompts")


@cache
def load_plugins() -> Plugins:
    """Every installed plugin; one that fails is reported by name and the others load."""
    plugins = Plugins(pluggy.PluginManager(PROJECT))
    plugins.manager.add_hookspecs(Hooks)
    for entry in sorted(entry_points(group=PROJECT), key=lambda e: (not _ours(e), e.name)):
        _load(plugins, entry)
    for hook in HOOKS:  # a hook that fails is reported from the beginning
        plugins.by_plugin(hook)
    return plugins


def _ours(entry: EntryPoint) -> bool:
    """Whether a plugin came with this program, and not with another package."""
    return entry.dist is not None and re.sub("[-_.]+", "-", entry.dist.name) == DISTRIBUTION


def _load(plugins: Plugins, entry: EntryPoint) -> None:
    manager = plugins.manager
    if manager.has_plugin(entry.name):
        name = f"{entry.name} ({entry.value})"
        plugins.broken[name] = f"another plugin has the name {entry.name!r}; rename the entry point"
        return
    try:
        with stdout_to_stderr():
            manager.register(entry.load(), name=entry.name)
            manager.check_pending()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # third-party code may raise anything
        if manager.has_plugin(entry.name):
            manager.unregister(name=entry.name)
        plugins.broken[entry.name] = sentence(error)
        return
    if _ours(entry):
        plugins.built_in.add(entry.name)


def _digest(plugin: Any) -> str:
    """Of the file that a plugin is in."""
    try:
        file = inspect.getsourcefile(plugin)
        content = Path(file).read_bytes() if file else b""
    except (TypeError, OSError):
        content = b""
    return hashlib.sha256(content).hexdigest()[:ID_LENGTH]


# --- what hooks return -------------------------------------------------------------------------


def _checked(hook: str, returned: Any) -> dict[str, Any]:
    """The names and things a hook returned. Raises Unfit."""
    if not isinstance(returned, Mapping):
        raise Unfit(f"it returned {ascii(returned)[:80]}, no mapping")
    found = dict(returned.items())
    for name, thing in found.items():
        if not isinstance(name, str) or not name.isprintable() or not name.strip():
            raise Unfit(f"{ascii(name)[:80]} is no name")
        if problem := _problem(hook, thing):
            raise Unfit(f"{name!r} {problem}")
        if hook == "register_roles" and thing.name != name:
            raise Unfit(f"{name!r} is the card of {thing.name!r}")
    return found


def _problem(hook: str, thing: Any) -> str | None:
    """Why a thing cannot be what a hook registers."""
    if hook == "register_roles":
        return None if _is_card(thing) else "is no RoleCard, or one with a field of another kind"
    if hook == "register_claims":
        return None if isinstance(thing, ClaimKind) else "is no ClaimKind"
    if hook == "register_prompts":
        folder = isinstance(thing, (str, Path)) and Path(thing).is_dir()
        return None if folder else "is no folder"
    if hook == "register_patterns":
        return _no_pattern(thing)
    if hook == "register_labelers" and not callable(getattr(thing, "prompt", None)):
        return "cannot be called" if not callable(thing) else "has no method prompt"
    if not callable(function_of(thing)):
        return "cannot be called"
    if hook in ("register_tasks", "register_models", "register_answer_keys"):
        return None  # they have no settings of their own
    try:
        canonical_json(settings_of(thing))
    except (TypeError, ValueError) as error:
        return f"has settings whose defaults cannot be written as JSON ({error})"
    return None


def _is_card(card: Any) -> bool:
    """Whether it is a role card with at least one test: one without could not be refuted."""
    if not isinstance(card, RoleCard):
        return False
    for tests, kind in (
        (card.requirements, Requirement),
        (card.claims, RoleClaim),
        (card.unless, RoleClaim),
    ):
        if not isinstance(tests, (tuple, list)) or not all(isinstance(x, kind) for x in tests):
            return False
    texts = all(isinstance(text, str) for text in (card.name, card.kind, card.claim, card.source))
    return texts and bool(card.requirements or card.claims)


def _no_pattern(text: Any) -> str | None:
    if not isinstance(text, str):
        return "is no text"
    try:
        Pattern.parse(text)
    except UserError as error:
        return f"is no pattern: {error}"
    return None


def pick(kind: str, found: Mapping[str, Any], name: str) -> Any:
    """One of a kind by name. Raises UserError that lists the names there are."""
    if name not in found:
        raise unknown(kind, name, found)
    return found[name]
