"""Roles that were measured independently, with plain Hugging Face and on other prompts."""

from __future__ import annotations

from acdc_explain import hookimpl
from acdc_explain.records.circuit import Node
from acdc_explain.records.role import AnswerKey, KnownRoles

MOVERS = tuple(f"a{layer}.h{head}" for layer in (1, 2) for head in range(4))


def mini() -> list[KnownRoles]:
    """As in docs/mini.md, from mini_model/measure.py; heads that fit no role are left out."""
    ioi: dict[str, tuple[str, ...]] = {"a0.h0": ("duplicate_token",)}
    ioi |= dict.fromkeys(MOVERS, ("name_mover",))
    induction: dict[str, tuple[str, ...]] = {"a0.h3": ("previous_token",)}
    induction |= dict.fromkeys(MOVERS[:4], ("induction", "name_mover"))
    return [
        KnownRoles("mini", task, {Node.parse(name): roles for name, roles in heads.items()})
        for task, heads in (("ioi", ioi), ("induction", induction))
    ]


def smollm2() -> list[KnownRoles]:
    """The heads that tests/models/test_smollm2.py measures, on other templates and names."""
    heads: dict[str, tuple[str, ...]] = {f"a23.h{head}": ("name_mover",) for head in (0, 1, 2, 7)}
    heads |= {"a24.h4": ("negative_name_mover",)}
    known = {Node.parse(name): roles for name, roles in heads.items()}
    settings = {"discoverer": "eap", "max_edges": 400}
    return [KnownRoles("smollm2-135m", "ioi", known, settings=settings)]


@hookimpl
def register_answer_keys() -> dict[str, AnswerKey]:
    return {"mini": mini, "smollm2": smollm2}
