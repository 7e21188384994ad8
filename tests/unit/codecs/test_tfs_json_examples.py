from __future__ import annotations

import math

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_examples import serialized_examples
from gateway.codecs.tfs_json import decode_examples
from gateway.domain.errors import InvalidRequest


def features(body: str) -> list[dict[str, tuple[str | None, list[object]]]]:
    found = []
    for data in decode_examples(body.encode()).examples:
        one = {}
        for name, feature in tfs_pb2.Example.FromString(data).features.feature.items():
            kind = feature.WhichOneof("kind")
            one[name] = (kind, list(getattr(feature, kind).value) if kind else [])
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        ("1", "int64_list", [1]),
        ("[1, -2]", "int64_list", [1, -2]),
        ("[true, false, 2]", "int64_list", [1, 0, 2]),
        ("1.5", "float_list", [1.5]),
        ("[1e2]", "float_list", [100.0]),
        ("[1e39, -Infinity]", "float_list", [math.inf, -math.inf]),
        ('"a"', "bytes_list", [b"a"]),
        ('["a", {"b64": "/w=="}]', "bytes_list", [b"a", b"\xff"]),
        ("[]", None, []),
    ],
)
def test_the_kind_of_a_feature_is_that_of_its_values(value, kind, values):
    assert features(f'{{"examples":[{{"f":{value}}}]}}') == [{"f": (kind, values)}]


def test_the_context_is_merged_and_an_examples_own_feature_wins():
    body = '{"context":{"c":1,"f":2},"examples":[{"f":3},{}]}'
    assert features(body) == [
        {"c": ("int64_list", [1]), "f": ("int64_list", [3])},
        {"c": ("int64_list", [1]), "f": ("int64_list", [2])},
    ]


@pytest.mark.parametrize(("key", "name"), [("", "serving_default"), ('"signature_name":"s",', "s")])
def test_the_signature_name(key, name):
    assert decode_examples(f'{{{key}"examples":[{{}}]}}'.encode()).signature_name == name


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "When method is classify, key 'examples' is expected and was not found"),
        ('{"examples":1}', "Expecting 'examples' value to be an list/array"),
        ('{"examples":[]}', "'examples' value is an empty array"),
        ('{"examples":[1]}', "Example must be JSON object but got JSON Number"),
        ('{"context":[],"examples":[{}]}', "Example must be JSON object but got JSON Array"),
        ('{"examples":[{"f":null}]}', "Feature: f has element with unexpected JSON type: Null"),
        ('{"examples":[{"f":[[1]]}]}', "Feature: f has element with unexpected JSON type: Array"),
        (
            '{"examples":[{"f":{"x":1}}]}',
            "Feature: f has element with unexpected JSON type: Object",
        ),
        (
            '{"examples":[{"f":[1,1.5]}]}',
            "Unexpected element type in feature: f expecting type: int64",
        ),
        (
            '{"examples":[{"f":[1.5,1]}]}',
            "Unexpected element type in feature: f expecting type: float",
        ),
        (
            '{"examples":[{"f":["a",true]}]}',
            "Unexpected element type in feature: f expecting type: bytes",
        ),
        (
            '{"examples":[{"f":9223372036854775808}]}',
            "Feature: f has uint64 element. Only int64 is supported.",
        ),
        ('{"examples":[{"f":{"b64":"*"}}]}', "Unable to base64 decode"),
        ('{"signature_name":[]}', "'signature_name' key must be a string value."),
    ],
)
def test_wrong_examples_have_the_original_words(body, words):
    with pytest.raises(InvalidRequest) as caught:
        decode_examples(body.encode())
    assert caught.value.message.endswith(words)


def test_a_feature_name_that_is_no_utf8_is_refused():
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        decode_examples(b'{"examples":[{"\xff":1}]}')


def example(**values: int) -> tfs_pb2.Example:
    made = tfs_pb2.Example()
    for name, value in values.items():
        made.features.feature[name].int64_list.value.append(value)
    return made


def test_examples_of_a_grpc_input():
    listed = tfs_pb2.Input()
    listed.example_list.examples.append(example(f=1))
    assert serialized_examples(listed) == [example(f=1).SerializeToString()]
    in_context = tfs_pb2.Input()
    in_context.example_list_with_context.context.CopyFrom(example(c=1, f=2))
    in_context.example_list_with_context.examples.append(example(f=3))
    [merged] = serialized_examples(in_context)
    assert tfs_pb2.Example.FromString(merged) == example(c=1, f=3)


@pytest.mark.parametrize("kind", [None, "example_list", "example_list_with_context"])
def test_an_input_without_examples_has_the_original_words(kind):
    source = tfs_pb2.Input()
    if kind:
        getattr(source, kind).SetInParent()
    with pytest.raises(InvalidRequest) as caught:
        serialized_examples(source)
    assert caught.value.message == "Input is empty."
