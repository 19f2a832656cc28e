"""Examples of JSON schemas fit the schemas they are made from."""

from typing import Any

import jsonschema
import pytest

from relay.sandbox.example import example

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"unit": {"enum": ["c", "f"]}, "kind": {"const": 3}}, "required": ["kind"]},
    {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}, "minItems": 2}}},
    {"type": "object", "properties": {"price": {"anyOf": [{"type": "number", "minimum": 5}, {"type": "null"}]}}},
    {
        "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Point"}, "on": {"type": ["boolean", "null"]}},
        "required": ["at", "on"],
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_example_is_valid(schema: dict[str, Any]) -> None:
    jsonschema.validate(example(schema, "some text"), schema)


def test_strings_say_what_was_asked() -> None:
    assert example(SCHEMAS[0], "Paris?") == {"city": "Paris?", "days": 1}


def test_a_schema_that_contains_itself_ends() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    assert isinstance(example(tree, ""), dict)
    wide = {"type": "object", "properties": {str(number): {"$ref": "#"} for number in range(100)}}
    assert len(example(wide, "")) == 100
    node = {"$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}}, "$ref": "#/$defs/N"}
    assert isinstance(example(node, ""), dict)


@pytest.mark.parametrize("schema", [None, True, 3, [], {}, {"type": 5}, {"$ref": "#/nowhere"}])
def test_what_is_no_schema_gives_nothing(schema: object) -> None:
    assert example(schema, "text") is None
