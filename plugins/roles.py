"""The vocabulary of roles, with the claims that each makes and its tests; see docs/roles.md."""

from __future__ import annotations

from dataclasses import replace

from acdc_explain import hookimpl
from acdc_explain.records.role import LEAST_EFFECT, STANDS_IN, Requirement, RoleCard, RoleClaim

HELPS = Requirement("causal", "ablation_effect", at_least=LEAST_EFFECT)
MATTERS = Requirement("causal", "ablation_effect", at_least=0.05)

END = {"at": ("END",)}
TO_ANSWER = RoleClaim("attends", {**END, "to": ("answer",)})
TO_FOIL = RoleClaim("attends", {**END, "to": ("foil token",)})
READS_FOIL = replace(TO_FOIL, instead=(RoleClaim("carries", {**END, "through": ("foils",)}),))
"""Of a head whose direct effect comes from the wrong answer, it is enough what this carries."""
TO_NO_ANSWER = RoleClaim("attends", {**END, "to": ("no answer",)})
TO_ITSELF = RoleClaim("attends", {**END, "to": ("itself",)})
FEEDS = RoleClaim("feeds", {"receiver": ("head", "mlp")})
COPIES = RoleClaim("copies")
RAISES = RoleClaim("raises", {"what": ("answers",)})
LOWERS_FOILS = RoleClaim("lowers", {"what": ("foils",)})
DIRECTLY = RoleClaim("directly")
DOES = RoleClaim("feeds", instead=(RoleClaim("raises"), RoleClaim("lowers")))


def _writes(name: str, what: str, source: str) -> RoleClaim:
    return RoleClaim(name, {"what": (what,), "source": (source,)})


HEADS = (
    RoleCard(
        name="previous_token",
        kind="head",
        claim="attends to the token before and tells later heads what it is",
        claims=(RoleClaim("attends", {"to": ("previous",)}), FEEDS),
        aliases=("prev-token",),
        source="Elhage et al. 2021; Olsson et al. 2022",
    ),
    RoleCard(
        name="duplicate_token",
        kind="head",
        claim="attends to an earlier occurrence of the present token and tells later heads",
        claims=(RoleClaim("attends", {"to": ("duplicate",)}), FEEDS),
        aliases=("dup-token",),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="induction",
        kind="head",
        claim="attends to the token after an earlier occurrence of the present token, passes it on",
        claims=(RoleClaim("attends", {"to": ("continuation",)}), DOES),
        aliases=("prefix-matching",),
        source="Olsson et al. 2022",
    ),
    RoleCard(
        name="name_mover",
        kind="head",
        claim="attends from the last token to the answer and copies it into the logits",
        claims=(TO_ANSWER, _writes("raises", "answers", "answer")),
        aliases=("mover", "argument mover", "letter mover", "copy head"),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="negative_name_mover",
        kind="head",
        claim="attends from the last token to the answer and pushes it down in the logits",
        claims=(TO_ANSWER, _writes("lowers", "answers", "answer")),
        aliases=("copy suppression", "anti-copy"),
        source="Wang et al. 2022; McDougall et al. 2023",
    ),
    RoleCard(
        name="backup_name_mover",
        kind="head",
        claim="copies the answer into the logits when the heads that usually do it are ablated",
        claims=(COPIES, RoleClaim("backs_up", {"what": ("answers",)})),
        unless=(RoleClaim("raises", {"what": ("foils",)}),),
        aliases=("backup",),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="foil_suppressor",
        kind="head",
        claim="reads the wrong answer from the last token and pushes it down in the logits",
        claims=(READS_FOIL, _writes("lowers", "foils", "foil token")),
        source="McDougall et al. 2023, of copy suppression in general",
    ),
    RoleCard(
        name="foil_mover",
        kind="head",
        claim="attends from the last token to the wrong answer and raises it in the logits",
        claims=(TO_FOIL, _writes("raises", "foils", "foil token")),
        source="McDougall et al. 2023, of copying in general",
    ),
    RoleCard(
        name="s_inhibition",
        kind="head",
        claim="attends from the last token to the wrong answer and turns the movers away from it",
        claims=(
            TO_FOIL,
            RoleClaim(
                "feeds",
                {**END, "receiver": ("head",), "port": ("q",), "key": ("answer",)},
                positive=True,
                instead=(
                    RoleClaim(
                        "feeds",
                        {**END, "receiver": ("head",), "port": ("q",), "key": ("foil token",)},
                        positive=False,
                    ),
                ),
            ),
        ),
        aliases=("subject inhibition", "query suppressor"),
        source="Wang et al. 2022",
    ),
    RoleCard(
        name="repeater",
        kind="head",
        claim="reads at the last token what earlier components wrote there and adds to the answer",
        claims=(TO_ITSELF, _writes("raises", "answers", "itself")),
        source="measured on SmolLM2-135M; see docs/roles.md",
    ),
    RoleCard(
        name="damper",
        kind="head",
        claim="reads at the last token what earlier components wrote there and takes some back",
        claims=(TO_ITSELF, _writes("lowers", "answers", "itself")),
        source="measured on SmolLM2-135M; see docs/roles.md",
    ),
    RoleCard(
        name="carrier",
        kind="head",
        claim="brings what stands at an earlier token to the last one, for later MLPs",
        claims=(
            RoleClaim("attends", {**END, "to": ("elsewhere",)}),
            RoleClaim("feeds", {**END, "receiver": ("mlp",)}),
        ),
        source="measured on SmolLM2-135M; see docs/roles.md",
    ),
    RoleCard(
        name="successor",
        kind="head",
        claim="raises what follows the attended token in an order: days, numbers, months, letters",
        claims=(
            RoleClaim("maps", {"relation": ("successor",)}),
            TO_NO_ANSWER,
            _writes("raises", "answers", "no answer"),
        ),
        aliases=("ordinal",),
        source="Gould et al. 2023",
    ),
    RoleCard(
        name="relation",
        kind="head",
        claim="raises what stands in a relation to the attended token, such as a country's capital",
        claims=(
            RoleClaim("maps", {"relation": ("relation",)}),
            TO_NO_ANSWER,
            _writes("raises", "answers", "no answer"),
        ),
        aliases=("fact mover", "relation mover"),
        source="Elhelo and Geva 2024",
    ),
    RoleCard(
        name="attribute_extractor",
        kind="head",
        claim="attends from the last token to the subject and raises the answer, not the subject",
        requirements=(Requirement("pattern", "copying", at_most=0.2),),
        claims=(
            RoleClaim("attends", {**END, "to": ("subject",)}),
            _writes("raises", "answers", "subject"),
        ),
        source="Geva et al. 2023",
    ),
    RoleCard(
        name="positional",
        kind="head",
        claim="attends to a place at a fixed distance, whatever stands there",
        requirements=(Requirement("pattern", "fixed_offset_attention", at_least=0.5),),
        claims=(DOES,),
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
        ),
        claims=(DOES,),
        aliases=("bag-of-words",),
        source="Wang et al. 2022, appendix",
    ),
)

MLPS = (
    RoleCard(
        name="token_enrichment",
        kind="mlp",
        claim="adds to a token what is known of it by itself, whatever stands before",
        requirements=(HELPS,),
        claims=(
            RoleClaim("reads_token", {"at": ("changed",)}),
            RoleClaim("feeds", {"at": ("changed",), "receiver": ("head", "mlp")}),
        ),
        source="Wang et al. 2022; Geva et al. 2023",
    ),
    RoleCard(
        name="fact_lookup",
        kind="mlp",
        claim="brings back what is known of the subject, at the subject's last token",
        requirements=(
            Requirement("causal", "restored_at_subject", at_least=0.1),
            MATTERS,
        ),
        source="Meng et al. 2022",
    ),
    RoleCard(
        name="logit_booster",
        kind="mlp",
        claim="raises the answer at the last token by itself, not through later components",
        requirements=(MATTERS,),
        claims=(RAISES, DIRECTLY),
        source="Lieberum et al. 2023",
    ),
    RoleCard(
        name="comparison",
        kind="mlp",
        claim="raises what is larger than something in the prompt, in a staircase",
        requirements=(Requirement("pattern", "staircase", at_least=0.9),),
        claims=(replace(RAISES, instead=(LOWERS_FOILS,)),),
        aliases=("greater-than",),
        source="Hanna et al. 2023",
    ),
    RoleCard(
        name="key_value_memory",
        kind="mlp",
        claim="raises the answer through few neurons that fire for this input",
        requirements=(MATTERS,),
        claims=(RAISES, DIRECTLY, RoleClaim("neurons", END)),
        source="Geva et al. 2021",
    ),
)

OTHER = RoleCard(
    name="other",
    kind="any",
    claim="matters here, in a way that no other role says",
    requirements=(Requirement("causal", "ablation_effect", away_from_zero=LEAST_EFFECT),),
)

CARDS = (*HEADS, *MLPS, OTHER)


@hookimpl
def register_roles() -> dict[str, RoleCard]:
    return {card.name: card for card in CARDS}
