"""Which plugins a run uses, with every setting settled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...plugin_settings import settings_of, with_settings, with_shared
from ...plugins import Plugins, pick
from ..settings import Settings


def default_labeler() -> str:
    """`llm` if there is an API key or a server, else `rules`."""
    from ...llm.client import key_present

    return "llm" if key_present() else "rules"


def _digest(corpus: str | None) -> str | None:
    """Of a file's content; a file that cannot be read is reported by who reads it."""
    if corpus is None or not Path(corpus).is_file():
        return None
    return hashlib.sha256(Path(corpus).read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """Which plugins a run uses, with all their settings."""

    discoverer: str
    discoverer_settings: dict[str, Any]
    collectors: dict[str, dict[str, Any]]
    labeler: str
    labeler_settings: dict[str, Any]
    judges: dict[str, dict[str, Any]]

    @staticmethod
    def of(plugins: Plugins, settings: Settings, labeler: str) -> Plan:
        """Raises UserError for an unknown name or setting, or one of the wrong kind."""
        shared = _shared(settings)
        collectors, judges = plugins.collectors(), plugins.judges()
        discoverer = pick("discoverer", plugins.discoverers(), settings.discoverer)
        from_run = {k: v for k, v in shared.items() if k in settings_of(discoverer)}
        discoverer_settings = plugins.discoverer_settings(
            settings.discoverer, {**from_run, **settings.discoverer_settings}
        )
        chosen = settings.collectors if settings.collectors is not None else sorted(collectors)
        chosen_judges = settings.judges if settings.judges is not None else plugins.usual_judges()
        judging = list(dict.fromkeys([*chosen_judges, *settings.more_judges]))
        return Plan(
            settings.discoverer,
            discoverer_settings,
            {n: with_shared(pick("collector", collectors, n), shared) for n in chosen},
            labeler,
            _labeler_settings(plugins, settings, labeler),
            {name: with_shared(pick("judge", judges, name), shared) for name in judging},
        )

    def labeled_by(self, plugins: Plugins, settings: Settings, labeler: str) -> Plan:
        """The same plan with another labeler. Raises UserError."""
        chosen = _labeler_settings(plugins, settings, labeler)
        return replace(self, labeler=labeler, labeler_settings=chosen)

    def judged_by(self, plugins: Plugins, settings: Settings) -> Plan:
        """The same plan with more judges. Raises UserError."""
        judges, shared = plugins.judges(), _shared(settings)
        named = (*(settings.judges or ()), *settings.more_judges)
        more = {n: with_shared(pick("judge", judges, n), shared) for n in named}
        return replace(self, judges={**self.judges, **more})

    def code(self, plugins: Plugins) -> dict[str, Any]:
        """The code of other packages that takes part, by name: it decides the result, too."""
        used = [
            ("register_discoverers", self.discoverer),
            *(("register_collectors", name) for name in self.collectors),
            ("register_labelers", self.labeler),
            *(("register_judges", name) for name in self.judges),
        ]
        digests = {name: plugins.code(hook, name) for hook, name in used}
        foreign = {name: code["plugin_code"] for name, code in digests.items() if code}
        return {"code": foreign} if foreign else {}

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _shared(settings: Settings) -> dict[str, Any]:
    """What any plugin gets that has a setting of the name."""
    return {
        "seed": settings.seed,
        "corpus": settings.corpus,
        "corpus_digest": _digest(settings.corpus),
        "llm_model": settings.llm_model,
    }


def _labeler_settings(plugins: Plugins, settings: Settings, name: str) -> dict[str, Any]:
    labeler, shared = pick("labeler", plugins.labelers(), name), _shared(settings)
    from_run = {k: v for k, v in shared.items() if k in settings_of(labeler)}
    return with_settings("Labeler", name, labeler, {**from_run, **settings.labeler_settings})
