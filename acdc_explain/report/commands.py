"""The commands that reproduce a stored run: the same task, model and settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..llm.exchange import DEFAULT_LLM
from ..plugin_settings import with_shared
from ..plugins import Plugins

if TYPE_CHECKING:
    from ..records.run.header import RunHeader
    from ..records.run.run import Run

_SHARED = ("seed", "corpus", "corpus_digest")  # settings of any plugin, with an option each


def commands(run: Run, plugins: Plugins) -> list[str]:
    """The commands that reproduce a run; if its prompts came from a file, the first writes it."""
    settings = run.header.settings
    if settings.get("task_from", "plugin") == "plugin":
        return [_run(run, plugins)]
    file = f"{run.header.task}.jsonl"
    fetch = ["acdc-explain", "export", run.id, "--prompts", file]
    return [shlex.join(fetch), f"{_run(run, plugins)} --prompts {shlex.quote(file)}"]


def _run(run: Run, plugins: Plugins) -> str:
    header, settings = run.header, run.header.settings
    words = ["acdc-explain", "run", header.task, *model_options(header)]
    words += ["--seed", str(header.seed)]
    if "examples" in settings and settings.get("task_from") != "file":
        words += ["--examples", str(settings["examples"])]
    for option in ("discoverer", "metric", "ablation", "labeler"):
        if settings.get(option) is not None:
            words += [f"--{option}", str(settings[option])]
    words += _named_values("--set", "discoverer", settings, plugins)
    words += _named_values("--labeler-set", "labeler", settings, plugins)
    words += _llm(settings)
    words += _corpus(settings)
    for judge in settings.get("judges") or {}:
        if judge not in plugins.usual_judges():
            words += ["--judge", judge]
    if settings.get("own_templates"):
        words += ["--templates", "FOLDER"]
    return shlex.join(words)


def model_options(header: RunHeader) -> list[str]:
    """The options that load a run's model as it was; not the device, which makes no other run."""
    words = ["--model", header.model]
    for option in ("revision", "dtype"):
        if header.settings.get(option) is not None:
            words += [f"--{option}", str(header.settings[option])]
    return words


def _named_values(
    option: str, kind: str, settings: Mapping[str, Any], plugins: Plugins
) -> list[str]:
    """NAME=VALUE options for the settings of a plugin that differ from its defaults."""
    known: Mapping[str, Any] = plugins.discoverers() if kind == "discoverer" else plugins.labelers()
    function = known.get(str(settings.get(kind)))
    defaults = {} if function is None else with_shared(function, {})
    words = []
    for name, value in dict(settings.get(f"{kind}_settings") or {}).items():
        if name in _SHARED or name == "llm_model" or defaults.get(name, ...) == value:
            continue
        words += [option, f"{name}={json.dumps(value)}"]
    return words


def _llm(settings: Mapping[str, Any]) -> list[str]:
    """The option for the LLM that the labeler or a judge asks."""
    plugin_settings: list[Mapping[str, Any]] = [settings.get("labeler_settings") or {}]
    plugin_settings += (settings.get("judges") or {}).values()
    names = {str(x["llm_model"]) for x in plugin_settings if "llm_model" in x} - {DEFAULT_LLM}
    return ["--llm-model", min(names)] if names else []


def _corpus(settings: Mapping[str, Any]) -> list[str]:
    """The option for the text that a collector looked for examples in."""
    collectors = (settings.get("collectors") or {}).values()
    files = {str(x["corpus"]) for x in collectors if x.get("corpus")}
    return ["--corpus", min(files)] if files else []
