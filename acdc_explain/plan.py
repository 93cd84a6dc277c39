"""Which plugins a run uses, with every setting settled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plugins import Plugins, pick, settings_of, with_settings
from .settings import Settings


def default_labeler() -> str:
    """`llm` where one can be asked, else `rules`."""
    from .llm import key_present

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
        shared: dict[str, Any] = {
            "seed": settings.seed,
            "corpus": settings.corpus,
            "corpus_digest": _digest(settings.corpus),
            "llm_model": settings.llm_model,
        }

        def with_shared(function: Any) -> dict[str, Any]:
            known = settings_of(function)
            return {**known, **{k: v for k, v in shared.items() if k in known}}

        discoverers, collectors = plugins.discoverers(), plugins.collectors()
        judges, labelers = plugins.judges(), plugins.labelers()
        discoverer = pick("discoverer", discoverers, settings.discoverer)
        given = {
            **{k: v for k, v in shared.items() if k in settings_of(discoverer)},
            **settings.discoverer_settings,
        }
        discoverer_settings = with_settings("Discoverer", settings.discoverer, discoverer, given)
        if hasattr(discoverer, "check"):
            discoverer.check(**discoverer_settings)
        chosen = settings.collectors if settings.collectors is not None else sorted(collectors)
        usual = sorted(n for n, judge in judges.items() if not getattr(judge, "on_request", False))
        judging = settings.judges if settings.judges is not None else usual
        return Plan(
            settings.discoverer,
            discoverer_settings,
            {name: with_shared(pick("collector", collectors, name)) for name in chosen},
            labeler,
            with_shared(pick("labeler", labelers, labeler)),
            {name: with_shared(pick("judge", judges, name)) for name in judging},
        )

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
