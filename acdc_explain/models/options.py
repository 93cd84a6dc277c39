"""Choices about what a cut edge carries and how much memory a search takes; no torch here."""

from __future__ import annotations

from typing import Literal, get_args

Ablation = Literal["corrupt", "mean", "zero"]


ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


DEFAULT_MEMORY = 4.0  # gigabytes


DEFAULT_MODEL = "mini"
