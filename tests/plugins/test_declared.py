"""Plugins declared by a record, and bare callables: neither names nor texts decide anything."""

from __future__ import annotations

from typing import Any

import pytest

from acdc_explain import Discoverer, Judge, Labeler, UserError
from acdc_explain.plugin_settings import settings_of, with_settings

from .test_misbehaving import OPTIONS, explain, verdict  # noqa: F401
from .test_plugins import Labels, installed, registers  # noqa: F401


def everything(contrast, progress, *, size: int = 3):
    raise AssertionError("a check that refuses comes first")


def refuse(*, size: int) -> None:
    raise UserError(f"Size {size} is refused.")


def test_a_bare_callable_is_a_record_without_extras():
    assert Discoverer.of(everything) == Discoverer(everything)
    assert Judge.of(everything) == Judge(everything, on_request=False, asks_llm=False)
    labels = Labels()
    labeler = Labeler.of(labels)
    assert (labeler.function, labeler.summarise, labeler.asks_llm) == (labels, None, False)
    declared = Labeler.of(Labels(), asks_llm=True)
    assert Labeler.of(declared) is declared


def test_the_check_of_a_discoverer_comes_before_the_search(explain):  # noqa: F811
    with pytest.raises(UserError, match="Size 3 is refused"):
        explain("register_discoverers", Discoverer(everything, check=refuse), discoverer="mine")


def test_only_a_judge_that_says_so_is_given_a_session(explain, monkeypatch):  # noqa: F811
    given: list[Any] = []

    def mine(contrast, labels, roles, session="none"):
        given.append(session)
        yield from (verdict(label) for label in labels)

    run = explain("register_judges", mine, judges=("mine",))
    assert given == ["none"]  # a parameter's name decides nothing
    assert {v.judge for v in run.verdicts} == {"mine"}


def test_a_judge_that_says_so_is_given_a_session(explain):  # noqa: F811
    given: list[Any] = []

    def asking(contrast, labels, roles, session="none"):
        given.append(session)
        yield from (verdict(label) for label in labels)

    explain("register_judges", Judge(asking, asks_llm=True), judges=("mine",))
    assert callable(given[0])


def test_types_are_read_and_not_the_text_of_an_annotation():
    Whole = int

    def discover(contrast, progress, *, n: Whole = 2, share: float | None = None): ...

    discover.__annotations__ = {"n": Whole, "share": float | None}
    assert settings_of(Discoverer(discover)) == {"n": 2, "share": None}
    assert with_settings("Discoverer", "d", discover, {"n": 3.0})["n"] == 3.0
    with pytest.raises(UserError, match="'n' of 'd' is 2.5; give a whole number"):
        with_settings("Discoverer", "d", discover, {"n": 2.5})
    with pytest.raises(UserError, match="'share' of 'd' is nan; give a finite number"):
        with_settings("Discoverer", "d", discover, {"share": float("nan")})


def test_annotations_that_cannot_be_read_hide_no_others():
    def discover(contrast: Absent, progress, *, tau: float = 0.1): ...

    with pytest.raises(UserError, match="'tau' of 'd' is 'much'; give a finite number"):
        with_settings("Discoverer", "d", discover, {"tau": "much"})
