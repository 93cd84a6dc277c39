"""The API key: read from the environment, sent to the server, and kept out of everything else."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ..errors import UserError

VARIABLE = "OPENAI_API_KEY"
SHORTEST_SECRET = 16  # characters; servers of one's own take any text, `x` is usual
MASK = "[key]"


def api_key() -> str:
    """Without the space and line end that copying it brings; empty: there is none."""
    return os.environ.get(VARIABLE, "").strip()


def base_url() -> str:
    """The address of a server of one's own; empty: there is none."""
    return os.environ.get("OPENAI_BASE_URL", "").strip()


def check_key() -> None:
    """Raises UserError for a key that cannot be sent; it is not shown."""
    strange = re.search(r"[^!-~]", api_key())
    if strange:
        raise UserError(
            f"{VARIABLE} has a character that no key has, the {strange.start() + 1}th; copy the "
            "key again."
        )


def json_in(reply: str) -> str:
    """The JSON object of a reply, without the thoughts or the fence that some put around it."""
    said = reply.rpartition("</think>")[2]
    start, end = said.find("{"), said.rfind("}")
    return said[start : end + 1] if 0 <= start < end else said


def without_key(text: str) -> str:
    """The text with a mask for the key, also where its characters are written as \\uXXXX.

    JSON is read first and masked within its texts, so that it stays JSON.
    """
    key = api_key()
    if len(key) < SHORTEST_SECRET:
        return text
    found = re.compile("".join(map(_either_way, key)))
    said = json_in(text)
    if not said:
        return found.sub(MASK, text)
    before, _, after = text.rpartition(said)
    try:
        document = json.loads(said)
        masked = _masked(document, found)
        said = said if masked == document else json.dumps(masked, ensure_ascii=False)
    except (ValueError, RecursionError):
        said = found.sub(MASK, said)
    return found.sub(MASK, before) + said + found.sub(MASK, after)


def _either_way(character: str) -> str:
    escaped = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(character):04x}")
    return rf"(?:{re.escape(character)}|\\u{escaped})"


def _masked(value: Any, key: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return key.sub(MASK, value)
    if isinstance(value, list):
        return [_masked(item, key) for item in value]
    if isinstance(value, dict):
        return {key.sub(MASK, name): _masked(item, key) for name, item in value.items()}
    return value
