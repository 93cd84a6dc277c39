"""The API key: read from the environment, sent to the server, and masked everywhere else."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ..errors import UserError

VARIABLE = "OPENAI_API_KEY"
SHORTEST_SECRET = 16  # characters; private servers accept any text as a key, often just `x`
MASK = "[key]"


def api_key() -> str:
    """The key without surrounding white space, which copying often adds; empty if there is none."""
    return os.environ.get(VARIABLE, "").strip()


def base_url() -> str:
    """The address of a private server; empty if there is none."""
    return os.environ.get("OPENAI_BASE_URL", "").strip()


def check_key() -> None:
    """Raise UserError for a key that cannot be sent. The message does not show the key."""
    bad = re.search(r"[^!-~]", api_key())
    if bad:
        raise UserError(
            f"{VARIABLE} has a character that no key has, the {bad.start() + 1}th; copy the "
            "key again."
        )


def json_in(reply: str) -> str:
    """The JSON object in a reply, without the reasoning or the code fence around it."""
    text = reply.rpartition("</think>")[2]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def without_key(text: str) -> str:
    """The text with the key masked, also where the key's characters are written as \\uXXXX.

    A JSON object in the text is parsed and masked string by string, so that it stays valid JSON.
    """
    key = api_key()
    if len(key) < SHORTEST_SECRET:
        return text
    pattern = re.compile("".join(map(_plain_or_escaped, key)))
    content = json_in(text)
    if not content:
        return pattern.sub(MASK, text)
    before, _, after = text.rpartition(content)
    try:
        document = json.loads(content)
        masked = _mask_strings(document, pattern)
        content = content if masked == document else json.dumps(masked, ensure_ascii=False)
    except (ValueError, RecursionError):
        content = pattern.sub(MASK, content)
    return pattern.sub(MASK, before) + content + pattern.sub(MASK, after)


def _plain_or_escaped(character: str) -> str:
    """A regular expression for a character as it is or as \\uXXXX."""
    escaped = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(character):04x}")
    return rf"(?:{re.escape(character)}|\\u{escaped})"


def _mask_strings(value: Any, key: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return key.sub(MASK, value)
    if isinstance(value, list):
        return [_mask_strings(item, key) for item in value]
    if isinstance(value, dict):
        return {key.sub(MASK, name): _mask_strings(item, key) for name, item in value.items()}
    return value
