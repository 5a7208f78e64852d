"""JSON of others is read with finite numbers and without a choice between two values of a key."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.pipeline.records import json_text
from gristmill.pipeline.records.schema import canonical_json, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def strict(text: str) -> object:
    """What a reader that follows the standard makes of a text."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NaN", None),
        ("[Infinity, -Infinity, 1.5]", [None, None, 1.5]),
        ("1e999", None),
        ("-1E400", None),
        ("1e308", 1e308),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("[" + "9" * 5_000 + ", 1]", [None, 1]),
        ('"NaN"', "NaN"),
    ],
)
def test_numbers_that_json_cannot_say_are_null(text, value):
    assert json_text.loads(text) == value


def test_a_key_that_stands_twice_is_named_where_its_values_differ():
    reader = json_text.Reader()
    assert reader.decode('{"a": 1, "b": {"c": [{"d": 1, "d": 2}]}}')["a"] == 1
    assert reader.ambiguous == "d"
    value = reader.decode('{"a": 1, "a": 1, "b": [1, 1]}')
    assert (value, reader.ambiguous) == ({"a": 1, "b": [1, 1]}, None)
    whole = reader.decode('[{"x": {"k": 1, "k": null}}, {"x": 1}]')
    assert [json_text.ambiguous(row) for row in whole] == ["k", None]


@given(JSON)
def test_what_is_written_is_json_and_reads_back(value):
    for text in (canonical_json(value), json_text.published(value)):
        assert strict(text) == json_text.finite(value)
        assert json_text.loads(text) == json_text.finite(value)


@given(JSON)
def test_finite_values_stay(value):
    finite = json_text.finite(value)
    assert json_text.finite(finite) == finite


def test_an_infinite_setting_has_a_key_of_its_own():
    keys = {digest({"most": value}) for value in (None, math.inf, -math.inf, 1)}
    assert len(keys) == 4


def test_bytes_that_are_no_text_are_base64():
    assert canonical_json({"b": b"\xff"}) == '{"b":"/w=="}'
    with pytest.raises(TypeError, match="object is no JSON"):
        canonical_json({"b": object()})


def test_what_nests_too_deep_is_refused_as_no_json_is():
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match="nests too deep"):
            json_text.loads(text)
