"""How a record appears in a notebook.

`report/notebook.py` registers the drawings, so that records need not import them.
"""

from __future__ import annotations

from functools import singledispatch


@singledispatch
def as_html(record: object) -> str | None:
    """The record as HTML; None if no drawing is registered. A notebook then prints its `repr`."""
    return None
