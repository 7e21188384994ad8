from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.codecs.tfs_json import decode_predict
from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DType, Signature, TensorSpec


def signature(**inputs: DType) -> Signature:
    return Signature({name: TensorSpec(name, dtype, None) for name, dtype in inputs.items()})


SIGNATURES = {
    "serving_default": signature(x=DType.FLOAT),
    "two": signature(b=DType.STRING, a=DType.INT32),
    "nothing": signature(),
    **{dtype.label: signature(x=dtype) for dtype in DType},
}


def decode(body: str | bytes):
    return decode_predict(body.encode() if isinstance(body, str) else body, SIGNATURES)


def refusal(body: str | bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(body)
    return caught.value.message


def column(value: str, dtype: DType = DType.FLOAT):
    """`value` as the only input, in column form."""
    return decode(f'{{"signature_name":"{dtype.label}","inputs":{value}}}').inputs["x"]


# ---- forms --------------------


def test_row_form_makes_the_batch():
    call = decode('{"instances": [[1, 2.5], [3, 4]]}')
    assert (call.signature_name, call.row_form) == ("serving_default", True)
    assert call.inputs["x"].dtype == np.float32
    assert call.inputs["x"].tolist() == [[1, 2.5], [3, 4]]


def test_row_form_of_scalars_and_of_one_input_by_name():
    assert decode('{"instances": [1, 2]}').inputs["x"].tolist() == [1, 2]
    assert decode('{"instances": [{"x": 1}, {"x": 2}]}').inputs["x"].tolist() == [1, 2]


def test_row_form_of_several_inputs():
    body = '{"signature_name":"two","instances":[{"a":[1],"b":"x"},{"b":{"b64":"/+8="},"a":[2]}]}'
    call = decode(body)
    assert call.inputs["a"].tolist() == [[1], [2]]
    assert call.inputs["b"].tolist() == [b"x", b"\xff\xef"]


@pytest.mark.parametrize(
    ("value", "shape"), [("3", ()), ("[]", (0,)), ("[[],[]]", (2, 0)), ("[[[1]],[[2]]]", (2, 1, 1))]
)
def test_column_form_takes_any_shape(value, shape):
    call = decode(f'{{"inputs": {value}}}')
    assert (call.inputs["x"].shape, call.row_form) == (shape, False)


def test_column_form_by_name_ignores_names_that_the_signature_lacks():
    call = decode('{"signature_name":"two","inputs":{"a":[1],"b":["x"],"c":null}}')
    assert sorted(call.inputs) == ["a", "b"]


@pytest.mark.parametrize("name", ["", '"signature_name":"",'])
def test_no_signature_name_is_the_default_one(name):
    assert decode(f'{{{name}"inputs":1}}').signature_name == "serving_default"


# ---- what the parser takes beyond RFC 8259 --------------------


def test_nan_and_infinity_are_numbers():
    values = column("[NaN, Infinity, -Infinity, 1.5]", DType.DOUBLE)
    assert np.array_equal(values, [np.nan, np.inf, -np.inf, 1.5], equal_nan=True)


@pytest.mark.parametrize("rest", [" ", "}", "garbage", '{"inputs": 2}', "\n\x00\xff"])
def test_what_follows_the_first_value_is_ignored(rest):
    assert decode(b'{"inputs": 1}' + rest.encode("latin-1")).inputs["x"].tolist() == 1


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": 1, "inputs": 2}',
        '{"inputs": {"x": 1, "x": 2}}',
        '{"inputs": 1, "\\u0069nputs": 2}',
        '{"other": {"a": {"b": 1}}, "inputs": 1, "inputs": 2}',
        '{"inputs": 1, "inputs": {"b64": 3}, "x": [{"y": 1}]}',
    ],
)
def test_of_a_key_that_occurs_twice_the_first_counts(body):
    assert decode(body).inputs["x"].tolist() == 1


def test_a_repeated_key_in_a_row_counts_once():
    assert decode('{"instances": [{"x": 1, "x": 2}]}').inputs["x"].tolist() == [1]


def test_an_object_with_b64_twice_is_no_base64():
    assert "not formatted correctly for base64" in refusal(
        '{"signature_name":"string","inputs":{"x":{"b64":"YQ==","b64":"Yg=="}}}'
    )


def test_a_byte_order_mark_and_leading_space_are_skipped():
    assert decode(b"\xef\xbb\xbf \n" + b'{"inputs": 1}').inputs["x"].tolist() == 1


def test_bytes_that_are_no_utf8_stay_as_they_are():
    body = b'{"signature_name":"string","inputs":["\xff\xfe", "\xc3\xa9", "\\u00e9\\ud83d\\ude00"]}'
    assert decode(body).inputs["x"].tolist() == [b"\xff\xfe", "é".encode(), "é😀".encode()]


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\udc80", "\\ud800x", "\\ud800\\ud800", "\\udc00\\ud800"]
)
def test_half_a_surrogate_pair_is_a_parse_error(text):
    assert "surrogate pair in string is invalid" in refusal(f'{{"inputs": "{text}"}}')


def test_an_escaped_backslash_before_u_is_no_escape():
    assert column('["\\\\ud800"]', DType.STRING).tolist() == [b"\\ud800"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "The document is empty"),
        (" \n", "The document is empty. at offset: 2"),
        ("x", "Invalid value. at offset: 0"),
        ('{"inputs": }', "Invalid value. at offset: 11"),
        ("{inputs: 1}", "Missing a name for object member. at offset: 1"),
        ('{"é" 1}', "Missing a colon after a name of object member. at offset: 6"),
        ('{"inputs": [1 2]}', "Missing a comma or ] after an array element. at offset: 14"),
        ('{"a": ["]"] "b"}', "Missing a comma or } after an object member. at offset: 12"),
        ('{"inputs": "a', "Missing a closing quotation mark in string. at offset: 11"),
        ('{"inputs": "\\x"}', "Invalid escape character in string. at offset: 12"),
        ('{"inputs": "\\uzzzz"}', "Incorrect hex digit after \\u escape in string."),
        ('{"inputs": 1e400}', "Number too big to be stored in double."),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_has_the_original_words(body, words):
    message = refusal(body)
    assert message.startswith("JSON Parse error: ")
    assert words in message


# ---- the envelope --------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[1]", "JSON Value: [1] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": 1}', "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"instances": null}', "Expecting 'instances' to be an list/array"),
        (
            '{"instances": [1], "inputs": 1}',
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        (
            '{"signature_name": 1}',
            "not formatted correctly. 'signature_name' key must be a string value.",
        ),
        ('{"signature_name": "s"}', 'Serving signature name: "s" not found in signature def'),
        (
            '{"signature_name": "nothing", "inputs": 1}',
            "Failed to get input map for signature: nothing",
        ),
    ],
)
def test_a_wrong_envelope_has_the_original_words(body, words):
    assert refusal(body).endswith(words) or refusal(body).rstrip().endswith(words)


TWO = '{"signature_name":"two",'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (TWO + '"instances":[1]}', "instances is a plain list, but expecting list of objects"),
        (TWO + '"instances":[{"b64":"YQ=="}]}', "instances is a plain list"),
        (TWO + '"inputs":[1]}', "inputs is a plain value/list, but expecting an object"),
        (TWO + '"inputs":{"a":1}}', "Missing named input: b in 'inputs' object."),
        (
            TWO + '"instances":[{"a":1}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: "
            '{\n    "a": 1\n} keys must be equal to: a,b',
        ),
        (
            TWO + '"instances":[{"a":1,"b":"","c":1}]}',
            "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: c, keys must be equal to: a,b",
        ),
        (
            TWO + '"instances":[{"a":1,"b":""},[1]]}',
            "Expecting object but got list at item 1 of input list",
        ),
        (
            '{"instances":[1,{"x":1}]}',
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            '{"instances":[{"x":[1]},{"x":[[1]]}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [1] but got: [1,1]",
        ),
    ],
)
def test_rows_that_do_not_fit_the_signature_have_the_original_words(body, words):
    assert words in refusal(body)


# ---- values --------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[[1,2],[3]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (
            "[[1],2]",
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ("[1,[2]]", "Encountered list at unexpected level: 1 expected < 1"),
        ("[[],[1]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        ("[" * 40 + "]" * 40, "Lists are nested deeper than 32 levels"),
    ],
)
def test_ragged_lists_have_the_original_words(value, words):
    assert words in refusal(f'{{"inputs":{value}}}')


def test_ragged_rows_name_the_row():
    assert refusal('{"instances":[[1,2],[3]]}') == (
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting tensor size: 2 but got: 1"
    )


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        (DType.FLOAT, '"x"', '"x" Type: String'),
        (DType.FLOAT, "true", "true Type: True"),
        (DType.FLOAT, "null", "null Type: Null"),
        (DType.FLOAT, '{"b64":"YQ=="}', '{\n    "b64": "YQ=="\n} Type: Object'),
        (DType.INT32, "1.0", "1.0 Type: Number"),
        (DType.INT32, "1e2", "100.0 Type: Number"),
        (DType.INT32, "false", "false Type: False"),
        (DType.INT8, "128", "128 Type: Number"),
        (DType.INT8, "-129", "-129 Type: Number"),
        (DType.UINT8, "256", "256 Type: Number"),
        (DType.UINT8, "-1", "-1 Type: Number"),
        (DType.INT16, "32768", "32768 Type: Number"),
        (DType.INT32, "2147483648", "2147483648 Type: Number"),
        (DType.UINT32, "4294967296", "4294967296 Type: Number"),
        (DType.INT64, "9223372036854775808", "9223372036854775808 Type: Number"),
        (DType.UINT64, "-1", "-1 Type: Number"),
        (DType.UINT64, "18446744073709551616", "18446744073709552000.0 Type: Number"),
        (DType.BOOL, "1", "1 Type: Number"),
        (DType.STRING, "1", "1 Type: Number"),
    ],
)
@pytest.mark.parametrize("among", ["{}", "[{}]"])
def test_a_value_of_the_wrong_type_has_the_original_words(dtype, value, shown, among):
    message = refusal(
        f'{{"signature_name":"{dtype.label}","inputs":{{"x":{among.format(value)}}}}}'
    )
    shown = shown.replace("18446744073709552000.0", "1.8446744073709552e19")
    assert message == f"JSON Value: {shown} is not of expected type: {dtype.label}"


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT64, DType.FLOAT, DType.BOOL, DType.STRING])
def test_one_bad_value_among_many_is_found(dtype, good):
    value = {DType.BOOL: True, DType.STRING: "a"}.get(dtype, 1)
    values = [[value] * 50 for _ in range(50)]
    if not good:
        values[49][49] = None
    body = json.dumps({"signature_name": dtype.label, "inputs": values})
    if good:
        assert decode(body).inputs["x"].shape == (50, 50)
    else:
        assert "JSON Value: null Type: Null" in refusal(body)


@pytest.mark.parametrize(
    "dtype",
    [DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8, DType.UINT32, DType.UINT64],
)
def test_integers_reach_their_bounds(dtype):
    bounds = np.iinfo(numpy_dtype(dtype))
    array = column(f"[{bounds.min}, {bounds.max}]", dtype)
    assert (array.dtype, array.tolist()) == (numpy_dtype(dtype), [bounds.min, bounds.max])


def test_integers_are_floats_where_floats_are_wanted():
    assert column("[1, -2, 16777217, 18446744073709551615]").tolist() == [
        1.0, -2.0, 16777216.0, 18446744073709551616.0,
    ]  # fmt: skip


def test_what_float_cannot_hold_becomes_infinite_as_in_the_original():
    assert column("[1e39, -1e39]").tolist() == [np.inf, -np.inf]
    assert column("[1e39]", DType.DOUBLE).tolist() == [1e39]


@pytest.mark.parametrize(
    "dtype",
    [DType.HALF, DType.BFLOAT16, DType.UINT16, DType.COMPLEX64, DType.COMPLEX128],
)
@pytest.mark.parametrize("form", ['"inputs":[1]', '"instances":[1]', '"instances":[{"x":1}]'])
def test_dtypes_without_a_json_form_are_unimplemented(dtype, form):
    with pytest.raises(Unimplemented) as caught:
        decode(f'{{"signature_name":"{dtype.label}",{form}}}')
    assert f"Conversion of JSON Value: 1 to type: {dtype.label}" in caught.value.message


# ---- base64 --------------------


@pytest.mark.parametrize("text", ["/+8=", "/+8", " /+\\n8= "])
def test_base64_is_standard_with_or_without_padding(text):
    assert column(f'{{"b64":"{text}"}}', DType.STRING).tolist() == b"\xff\xef"


@pytest.mark.parametrize("text", ["_-8=", "a", "YQ==YQ==", "Y=Q=", "é"])
def test_what_is_no_base64_is_refused(text):
    assert refusal(f'{{"signature_name":"string","inputs":["a",{{"b64":"{text}"}}]}}') == (
        "Unable to base64 decode"
    )


@pytest.mark.parametrize("value", ['{"b64":1}', '{"b64":"YQ==","x":1}', '{"B64":"YQ=="}', "{}"])
def test_only_an_object_with_exactly_one_string_b64_is_base64(value):
    assert "not formatted correctly for base64 data" in refusal(
        f'{{"signature_name":"string","inputs":{{"x":[{value}]}}}}'
    )


def test_rows_may_be_base64_themselves():
    call = decode('{"signature_name":"string","instances":[{"b64":"YQ=="},"b",{"b64":""}]}')
    assert call.inputs["x"].tolist() == [b"a", b"b", b""]


# ---- echoes --------------------


@pytest.mark.parametrize(
    "value",
    ['"' + "x" * 5000 + '"', json.dumps({"k": list(range(5000))}), json.dumps({"é" * 400: 1})],
)
def test_an_echoed_value_is_cut_at_256_bytes(value):
    message = refusal(f'{{"inputs":{{"x":{value}}}}}')
    shown = message.removeprefix("JSON Value: ").rpartition(" Type: ")[0]
    assert 250 < len(shown.encode()) <= 260
