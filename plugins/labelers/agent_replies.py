"""What an LLM may reply to the labeler `agent`, step by step.

Names and docstrings are part of the JSON schemas that are sent, and so of the requests' ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from .llm import Answer, Reply

MOST_HYPOTHESES = 3
NONE = "none"  # the role of a hypothesis that names none


class Hypothesis(Reply):
    """What the component may do: claims, and the role that they come to."""

    role: str = Field(max_length=100)
    says: str = Field(min_length=1, max_length=300)
    claims: list[dict[str, Any]] = Field(min_length=1, max_length=3)


class Hypotheses(Reply):
    hypotheses: list[Hypothesis] = Field(min_length=1, max_length=MOST_HYPOTHESES)


class AgentReply(Reply):
    """The next experiment and why. `step` names it and has its arguments beside."""

    model_config = ConfigDict(title="Step")  # the title is part of the request's id

    reason: str = Field(max_length=300)
    step: dict[str, Any]


class Resolution(Reply):
    hypothesis: str = Field(max_length=10)
    outcome: Literal["supported", "refuted", "undecided"]
    reason: str = Field(min_length=1, max_length=300)
    evidence: list[str] = Field(max_length=8)


class Conclusion(Answer):
    hypotheses: list[Resolution] = Field(max_length=MOST_HYPOTHESES)


def step_schema(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of a reply that names one of the experiments, with its arguments."""
    steps = []
    for name, schema in schemas.items():
        properties = {"experiment": {"enum": [name]}, **schema.get("properties", {})}
        steps.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    schema = AgentReply.model_json_schema()
    schema["properties"]["step"] = {"anyOf": steps}
    return schema
