"""The vocabulary of roles, with the tests that each must pass; see docs/roles.md."""

from __future__ import annotations

from acdc_explain import hookimpl
from acdc_explain.records.role import (
    ATTENTION_AT_END,
    COPYING,
    LEAST_EFFECT,
    STEERING,
    Requirement,
    RoleCard,
)

STANDS_IN = 0.05  # logits by which a backup's direct effect rises when the movers are ablated
ACTS = Requirement("causal", "ablation_effect", at_least=LEAST_EFFECT)

HEADS = (
    RoleCard(
        name="previous_token",
        kind="head",
        claim="attends to the token before and tells later heads what it is",
        requirements=(
            Requirement("pattern", "previous_token_attention", at_least=0.4),
            Requirement("causal", "feeds_induction", at_least=0.05, instead=(ACTS,)),
        ),
        aliases=("prev-token",),
        source="Elhage et al. 2021; Olsson et al. 2022",
    ),
    RoleCard(
        name="duplicate_token",
        kind="head",
        claim="attends to an earlier occurrence of the present token and tells later heads",
        requirements=(
            Requirement("pattern", "duplicate_token_attention", at_least=0.3),
            Requirement("causal", "feeds_inhibition", at_least=0.02, instead=(ACTS,)),
        ),
        aliases=("dup-token",),
        source="Wang et al. 2022",
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
        name="name_mover",
        kind="head",
        claim="attends from the last token to the answer and copies it into the logits",
        requirements=(
            Requirement("pattern", "copying", at_least=COPYING),
            Requirement("pattern", "answer_attention", at_least=ATTENTION_AT_END),
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
            Requirement("pattern", "negative_copying", at_least=COPYING),
            Requirement("pattern", "answer_attention", at_least=ATTENTION_AT_END),
            Requirement("causal", "direct_effect", at_most=0.0),
        ),
        aliases=("copy suppression", "anti-copy"),
        source="Wang et al. 2022; McDougall et al. 2023",
    ),
    RoleCard(
        name="backup_name_mover",
        kind="head",
        claim="copies the answer into the logits when the heads that usually do it are ablated",
        requirements=(
            Requirement("pattern", "copying", at_least=COPYING),
            Requirement("causal", "stands_in", at_least=STANDS_IN),
        ),
        aliases=("backup",),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="s_inhibition",
        kind="head",
        claim="attends from the last token to the wrong answer and turns the movers away from it",
        requirements=(
            Requirement("pattern", "foil_attention", at_least=ATTENTION_AT_END),
            Requirement("causal", "steers_movers", at_least=STEERING),
        ),
        aliases=("subject inhibition", "query suppressor"),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="successor",
        kind="head",
        claim="raises what follows the attended token in an order: days, numbers, months, letters",
        requirements=(Requirement("pattern", "successor_score", at_least=0.5), ACTS),
        aliases=("ordinal",),
        source="Gould et al. 2023",
    ),
    RoleCard(
        name="relation",
        kind="head",
        claim="raises what stands in a relation to the attended token, such as a country's capital",
        requirements=(Requirement("pattern", "relation_score", at_least=0.3), ACTS),
        aliases=("fact mover", "relation mover"),
        source="Elhelo and Geva 2024",
    ),
    RoleCard(
        name="attribute_extractor",
        kind="head",
        claim="attends from the last token to the subject and raises the answer, not the subject",
        requirements=(
            Requirement("pattern", "subject_attention", at_least=0.1),
            Requirement("pattern", "copying", at_most=0.2),
            Requirement("causal", "direct_effect", at_least=0.0),
        ),
        source="Geva et al. 2023",
    ),
    RoleCard(
        name="positional",
        kind="head",
        claim="attends to a place at a fixed distance, whatever stands there",
        requirements=(Requirement("pattern", "fixed_offset_attention", at_least=0.5), ACTS),
        aliases=("fixed-offset",),
        source="Voita et al. 2019",
    ),
    RoleCard(
        name="attention_sink",
        kind="head",
        claim="attends to the first token, writes little and plays no part in this circuit",
        requirements=(
            Requirement("pattern", "sink_attention", at_least=0.3),
            Requirement("pattern", "first_value_norm", at_most=0.5),
            Requirement("causal", "ablation_effect", near_zero=LEAST_EFFECT),
            Requirement("causal", "stands_in", near_zero=STANDS_IN, if_defined=True),
        ),
        aliases=("BOS", "no-op"),
        source="Xiao et al. 2023; Gu et al. 2024",
    ),
    RoleCard(
        name="broad",
        kind="head",
        claim="attends to everything before it alike",
        requirements=(
            Requirement("pattern", "attention_entropy", at_least=0.65),
            Requirement("pattern", "largest_attention", at_most=0.35),
            ACTS,
        ),
        aliases=("bag-of-words",),
        source="Wang et al. 2022, appendix",
    ),
)

MLPS = (
    RoleCard(
        name="token_enrichment",
        kind="mlp",
        claim="adds to a token what is known of it by itself, whatever stands before",
        requirements=(Requirement("pattern", "token_share", at_least=0.5), ACTS),
        source="Wang et al. 2022; Geva et al. 2023",
    ),
    RoleCard(
        name="fact_lookup",
        kind="mlp",
        claim="brings back what is known of the subject, at the subject's last token",
        requirements=(
            Requirement("causal", "restored_at_subject", at_least=0.1),
            Requirement("causal", "ablation_effect", at_least=0.05),
        ),
        source="Meng et al. 2022",
    ),
    RoleCard(
        name="logit_booster",
        kind="mlp",
        claim="raises the answer at the last token by itself, not through later components",
        requirements=(
            Requirement("causal", "direct_effect", at_least=0.0),
            Requirement("causal", "ablation_effect", at_least=0.05),
        ),
        source="Lieberum et al. 2023",
    ),
    RoleCard(
        name="comparison",
        kind="mlp",
        claim="raises what is larger than something in the prompt, in a staircase",
        requirements=(
            Requirement("pattern", "staircase", at_least=0.9),
            Requirement("causal", "direct_effect", at_least=0.0),
        ),
        aliases=("greater-than",),
        source="Hanna et al. 2023",
    ),
    RoleCard(
        name="key_value_memory",
        kind="mlp",
        claim="raises the answer through few neurons that fire for this input",
        requirements=(
            Requirement("pattern", "few_neurons", at_least=0.3),
            Requirement("causal", "direct_effect", at_least=0.0),
            Requirement("causal", "ablation_effect", at_least=0.05),
        ),
        source="Geva et al. 2021",
    ),
)

OTHER = RoleCard(
    name="other",
    kind="any",
    claim="does something that no other word says, described in free text",
    requirements=(Requirement("causal", "ablation_effect", away_from_zero=LEAST_EFFECT),),
)

CARDS = (*HEADS, *MLPS, OTHER)


@hookimpl
def register_roles() -> dict[str, RoleCard]:
    return {card.name: card for card in CARDS}
