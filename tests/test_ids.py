"""Content ids: equal content has equal ids, in every version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_explain.ids import canonical_json, content_id
from acdc_explain.records.circuit import Node

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values))
def test_order_of_keys_does_not_matter(content):
    backwards = dict(reversed(list(content.items())))
    assert content_id("x", content) == content_id("x", backwards)


def test_kind_and_content_matter():
    ids = {content_id("a", [1]), content_id("b", [1]), content_id("a", [2])}
    assert len(ids) == 3


def test_known_id():
    """An id must never change, or the records of existing stores would lose their links."""
    assert content_id("task", {"b": [1, 2.5, None], "a": "é"}) == "4bb56435f6374e5f"


def test_records_are_written_by_their_names():
    assert canonical_json({"n": Node("head", 9, 6)}) == '{"n":"a9.h6"}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_values_without_a_json_form_are_refused(value):
    with pytest.raises((ValueError, TypeError), match="no JSON form"):
        canonical_json([value])
