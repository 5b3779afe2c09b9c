"""The notes of games as the buffer keeps them."""

import json
import math
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import finite
from engine.notes import to_json
from engine.wire import content_hash

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain_json), st.lists(st.binary(), max_size=3))
def test_notes_are_json_in_which_pictures_are_named(
    notes: dict[str, Any], pictures: list[bytes]
) -> None:
    deep = {"a": notes, "deep": [{"of": pictures}], "pair": (1, MappingProxyType({"x": 2.5}))}
    text, found = to_json(deep)
    named = [{"png": content_hash(picture)} for picture in pictures]
    assert json.loads(text) == {
        "a": json.loads(json.dumps(finite(notes))),
        "deep": [{"of": named}], "pair": [1, {"x": 2.5}],
    }  # fmt: skip
    assert found == {content_hash(picture): picture for picture in pictures}


def test_half_a_surrogate_pair_and_what_is_no_number_are_kept_as_well_as_json_can() -> None:
    text, found = to_json({"a": "\ud800", "b": [math.inf, math.nan], "c": b"x", 4: 2**70})
    named = {"png": content_hash(b"x")}
    assert json.loads(text) == {"a": "\ud800", "b": [None, None], "c": named, "4": 2**70}
    assert found == {content_hash(b"x"): b"x"}


def test_notes_that_are_no_json_are_refused() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        to_json({"a": object()})
