"""Canonical JSON and content ids: the same content has the same id on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

ID_LENGTH = 16  # hexadecimal digits, 64 bits


def plain(value: Any) -> Any:
    """A value as JSON types: records become objects, tuples become lists.

    Args:
        value: Numbers, text, None, mappings, lists, tuples and records of them. A record that
            defines `__str__`, such as a Node, becomes that text.

    Returns:
        The value of JSON types.

    Raises:
        TypeError: There is a value of another type.
        ValueError: A number is not finite.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no JSON form")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__str__ is not object.__str__:
            return str(value)
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal content is equal text."""
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_id(kind: str, content: Any) -> str:
    """The id of a record: a hash of its kind and its content.

    Args:
        kind: The kind of record, such as "circuit".
        content: What decides the id; see `plain` for what it may be.

    Returns:
        `ID_LENGTH` hexadecimal digits, the same on every machine.
    """
    text = f"{kind}\n{canonical_json(content)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]
