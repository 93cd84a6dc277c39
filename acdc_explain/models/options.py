"""Options of a search and their defaults, importable without torch."""

from __future__ import annotations

from typing import Literal, get_args

Ablation = Literal["corrupt", "mean", "zero"]
"""What a cut edge carries: the corrupted activation, its mean, or zero."""


ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


DEFAULT_MEMORY = 4.0  # gigabytes


DEFAULT_MODEL = "mini"
