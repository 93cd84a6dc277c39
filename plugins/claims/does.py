"""Claims `raises`, `lowers` and `feeds`: what a component does to the logits and to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Path
    from acdc_explain.evidence.patching.edges import Response
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import Claim


class Writes(BaseModel):
    """What a component does directly to the logits."""

    model_config = ConfigDict(extra="forbid")
    what: Literal["answers", "foils"] = Field(description="whose logits")
    source: str | None = Field(
        None, description="the position it reads this from, for a head; for an MLP, none"
    )
    by: float | None = Field(None, gt=0, description="by how many logits, about")


class Feeds(BaseModel):
    """What a component does to a later one."""

    model_config = ConfigDict(extra="forbid")
    receiver: str = Field(description="the later component")
    port: Literal["q", "k", "v"] | None = Field(None, description="of a head; none of an MLP")
    at: str = Field(description="the position at which it writes")
    query: str | None = Field(
        None, description="for ports q and k: the position from which the receiver attends"
    )
    key: str | None = Field(None, description="for ports q and k: what it attends to more, or less")
    by: float | None = Field(
        None, description="how much attention, or which share of the gap, about; with its sign"
    )


def writes(
    sign: int, contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """The direct effect on the logits of answers or foils, of what is read at a position.

    It is what the component's output adds to these logits on the clean prompts, the final norm
    kept; for a head, of the values at that position alone. Chance is the same for the answers and
    foils of other prompts: what does not depend on the prompt is a bias. The null is all others of
    the kind.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.sources import direct_from
    from acdc_explain.evidence.measurement import NotMeasurable

    answers: list[Sequence[Check] | str] = []
    for claim in claims:
        arguments = Writes.model_validate(claim.arguments)
        try:
            measurement = direct_from(
                contrast, claim.node.kind, arguments.what, arguments.source, sign
            )
        except NotMeasurable as reason:
            answers.append(str(reason))
            continue
        answers.append([Check(measurement, "logits", size=arguments.by)])
    return answers


def feeds(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """What changes at the receiver when this sender alone is cut from this port at this position.

    For ports q and k it is the attention that the receiver pays from one position to another; else
    the share of the gap that its changed output loses. The null is the other senders of the kind.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Source, path_effects
    from acdc_explain.claims.reading import measure_others, of_others, testable

    paths, answers = testable(contrast, claims, _fed)
    source = Source(prompts)
    wanted = [(path, source) for path in paths.values()]
    measure_others(contrast, wanted) if others else path_effects(contrast, wanted)
    for number, path in paths.items():
        arguments = claims[number].arguments
        by = arguments.get("by")
        unit, sign = _unit(arguments), 1.0 if by is None or by > 0 else -1.0
        value = partial(_value, contrast, arguments, sign)
        null = of_others(contrast, path, source, value, alone=not others)
        size = abs(by) if by is not None and others else None
        answers[number] = [Check(null, unit, size=size)]
    return answers


def _fed(contrast: Contrast, claim: Claim) -> Path:
    """The path that a claim speaks of. Raises NotMeasurable if there is none."""
    from acdc_explain.claims.paths import Path, parse_reader, require_place
    from acdc_explain.claims.reading import checked
    from acdc_explain.evidence.measurement import NotMeasurable

    arguments = Feeds.model_validate(claim.arguments)
    ends = [place for place in (arguments.query, arguments.key) if place is not None]
    for place in (arguments.at, *ends):
        require_place(contrast, place)
    if ends and (len(ends) == 1 or arguments.port not in ("q", "k")):
        raise NotMeasurable("attention changes by the ports q and k, from a query to a key")
    try:
        reader = (
            arguments.receiver
            if arguments.port is None
            else f"{arguments.receiver}<{arguments.port}>"
        )
        receiver, port = parse_reader(reader)
    except ValueError as reason:
        raise NotMeasurable(str(reason)) from reason
    return checked(contrast, Path(claim.node, arguments.at, receiver, port))


def _unit(arguments: Mapping[str, Any]) -> str:
    return "attention" if arguments.get("key") else "share of the gap"


def _value(
    contrast: Contrast, arguments: Mapping[str, Any], sign: float, response: Response
) -> Tensor:
    """What the sender does, times a sign; of attention it is minus what cutting it does."""
    key, query = arguments.get("key"), arguments.get("query")
    if key is None or query is None or response.attention is None:
        return sign * response.share.sum(1)
    places = contrast.place_names
    return -sign * response.attention[:, places.index(query), places.index(key)]


LOGITS = (
    " the {{ what }}{% if by %} by {{ '%.2f' % by }} logits{% endif %}"
    "{% if source %}, from {{ source }}{% endif %}"
)
READER = "{{ receiver }}{% if port %}<{{ port }}>{% endif %}"
ATTENTION = (
    f"at {{{{ at }}}} turns {READER} from {{{{ query }}}} "
    "{{ 'to' if by is none or by > 0 else 'away from' }} {{ key }}"
    "{% if by is not none %} by {{ '%.3f' % (by | abs) }}{% endif %}"
)
OUTPUT = (
    f"at {{{{ at }}}} feeds {READER}"
    "{% if by is not none %} with {{ '%+.1f' % (by * 100) }} % of the gap{% endif %}"
)


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    fed = f"{{% if key %}}{ATTENTION}{{% else %}}{OUTPUT}{{% endif %}}"
    return {
        "raises": ClaimKind(
            "does",
            Writes,
            f"raises{LOGITS}",
            partial(writes, 1),
            meaning="it adds `by` logits to these directly, from what it reads at `source`",
        ),
        "lowers": ClaimKind(
            "does",
            Writes,
            f"lowers{LOGITS}",
            partial(writes, -1),
            meaning="it takes `by` logits from these directly",
        ),
        "feeds": ClaimKind(
            "does",
            Feeds,
            fed,
            feeds,
            corrupts=True,
            meaning="what it writes at `at` makes `receiver` attend from `query` to `key` more "
            "(`by` > 0) or less, or, without `key`, is worth the share `by` of the gap there",
        ),
    }
