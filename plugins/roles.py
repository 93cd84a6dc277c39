"""The vocabulary of roles, with the tests each must pass; see docs/roles.md."""

from __future__ import annotations

from acdc_explain import hookimpl
from acdc_explain.role import Requirement, RoleCard

ACTS = Requirement("causal", "ablation_effect", away_from_zero=0.01)

CARDS = (
    RoleCard(
        name="previous_token",
        kind="head",
        claim="attends to the token before and passes on what it is",
        requirements=(
            Requirement("pattern", "previous_token_attention", at_least=0.4),
            ACTS,
        ),
        aliases=("prev-token",),
        source="Elhage et al. 2021; Olsson et al. 2022",
    ),
    RoleCard(
        name="induction",
        kind="head",
        claim="attends to the token after an earlier occurrence of the present token and copies it",
        requirements=(
            Requirement("pattern", "induction_attention", at_least=0.4),
            Requirement("pattern", "copying_strength", at_least=0.5),
            ACTS,
        ),
        aliases=("prefix-matching",),
        source="Olsson et al. 2022",
    ),
    RoleCard(
        name="duplicate_token",
        kind="head",
        claim="attends to an earlier occurrence of the present token",
        requirements=(
            Requirement("pattern", "duplicate_token_attention", at_least=0.3),
            ACTS,
        ),
        aliases=("dup-token",),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="name_mover",
        kind="head",
        claim="attends from the last token to the answer and copies it into the logits",
        requirements=(
            Requirement("pattern", "copying", at_least=0.5),
            Requirement("pattern", "answer_attention", at_least=0.1),
            Requirement("causal", "direct_effect", at_least=0.0),
        ),
        aliases=("mover", "argument mover", "letter mover", "copy head"),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="negative_name_mover",
        kind="head",
        claim="attends from the last token to the answer and pushes it down in the logits",
        requirements=(
            Requirement("pattern", "negative_copying", at_least=0.5),
            Requirement("pattern", "answer_attention", at_least=0.1),
            Requirement("causal", "direct_effect", at_most=0.0),
        ),
        aliases=("copy suppression", "anti-copy"),
        source="Wang et al. 2022; McDougall et al. 2023",
    ),
    RoleCard(
        name="attention_sink",
        kind="head",
        claim="attends to the first token, writes little and plays no part in this circuit",
        requirements=(
            Requirement("pattern", "sink_attention", at_least=0.3),
            Requirement("pattern", "first_value_norm", at_most=0.5),
            Requirement("causal", "ablation_effect", near_zero=0.01),
        ),
        aliases=("BOS", "no-op"),
        source="Xiao et al. 2023; Gu et al. 2024",
    ),
    RoleCard(
        name="other",
        kind="any",
        claim="does something that no other word says, described in free text",
        requirements=(ACTS,),
    ),
)


@hookimpl
def register_roles() -> dict[str, RoleCard]:
    return {card.name: card for card in CARDS}
