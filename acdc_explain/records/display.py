"""How a record shows itself in a notebook.

`report/notebook.py` registers the pictures: records know nothing of pages and drawings.
"""

from __future__ import annotations

from functools import singledispatch


@singledispatch
def as_html(record: object) -> str | None:
    """The record as HTML; None where nothing draws it, so that a notebook prints its `repr`."""
    return None
