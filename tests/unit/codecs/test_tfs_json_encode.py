from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_json import encode_classify, encode_predict, encode_regress
from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType


def strings(*values: bytes):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_rows_have_the_original_layout_to_the_byte():
    rows = encode_predict({"y": np.array([2.5, 3, 4.5], np.float32)}, row_form=True)
    assert rows == b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


def test_rows_of_several_outputs_are_objects():
    outputs = {"a": np.array([1, 2]), "b": np.array([[1.5, 2], [3, 4]], np.float32)}
    assert encode_predict(outputs, row_form=True).decode() == (
        '{\n    "predictions": [\n        {\n            "a": 1,\n            "b": [1.5, 2.0]\n'
        '        },\n        {\n            "a": 2,\n            "b": [3.0, 4.0]\n        }\n'
        "    ]\n}"
    )


def test_columns_are_a_bare_tensor_or_an_object():
    one = {"y": np.array(1.0, np.float32)}
    assert encode_predict(one, row_form=False) == b'{\n    "outputs": 1.0\n}'
    two = {"a": np.array(1), "b": np.array([True])}
    assert json.loads(encode_predict(two, row_form=False)) == {"outputs": {"a": 1, "b": [True]}}


@pytest.mark.parametrize("row_form", [True, False])
def test_no_rows_are_an_empty_list(row_form):
    [value] = json.loads(encode_predict({"y": np.zeros((0, 3))}, row_form)).values()
    assert value == []
    outputs = {"a": np.zeros((0, 3)), "b": np.zeros(0, object)}
    [value] = json.loads(encode_predict(outputs, row_form)).values()
    assert value == ([] if row_form else {"a": [], "b": []})


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        (np.float32, [1, 0.2, 9e6, 1e-7, -0.0], "[1.0, 0.2, 9000000.0, 1e-7, -0.0]"),
        (np.float32, [np.nan, np.inf, -np.inf, 3], "[NaN, Infinity, -Infinity, 3.0]"),
        (np.float64, [0.1, np.nan], "[0.1, NaN]"),
        (np.float64, [0.1 + 0.2], "[0.30000000000000004]"),
        (np.int64, [-(2**63), 2**63 - 1], "[-9223372036854775808, 9223372036854775807]"),
        (np.uint64, [2**64 - 1], "[18446744073709551615]"),
        (np.int8, [-128], "[-128]"),
        (np.bool_, [True, False], "[true, false]"),
        (">f4", [1.5], "[1.5]"),
    ],
)
def test_numbers_are_written_in_their_shortest_form(dtype, values, text):
    body = encode_predict({"y": np.array(values, dtype)}, row_form=False).decode()
    assert body == f'{{\n    "outputs": {text}\n}}'


@pytest.mark.parametrize("size", ["1e16", "1e22", "3.4028235e38", "1e-45"])
def test_floats_always_show_that_they_are_floats(size):
    body = encode_predict({"y": np.array([size], np.float32)}, row_form=False)
    text = body.split(b"[")[1].split(b"]")[0]
    assert b"." in text or b"e" in text
    assert np.float32(text) == np.float32(size)


def test_strings_are_base64_only_under_an_alias_of_bytes():
    outputs = {"y": strings(b"a\xc3\xa9", b'"\\\n'), "y_bytes": strings(b"a", b"\xff")}
    assert json.loads(encode_predict(outputs, row_form=True)) == {
        "predictions": [
            {"y": "aé", "y_bytes": {"b64": "YQ=="}},
            {"y": '"\\\n', "y_bytes": {"b64": "/w=="}},
        ]
    }


def test_numbers_under_an_alias_of_bytes_stay_numbers():
    assert b"[1.0]" in encode_predict({"y_bytes": np.ones(1)}, row_form=False)


def test_strings_that_are_no_utf8_leave_as_the_bytes_they_are():
    assert b'["\xff"]' in encode_predict({"y": strings(b"\xff")}, row_form=False)


def test_scalar_strings_and_text_arrays():
    scalar = np.empty((), object)
    scalar[()] = b"x"
    assert b'"x"' in encode_predict({"y": scalar}, row_form=False)
    assert b'[["a"]]' in encode_predict({"y": np.array([["a"]])}, row_form=False)


@pytest.mark.parametrize(
    ("outputs", "row_form", "words"),
    [
        ({}, True, "Cannot convert empty tensor map to JSON"),
        ({"y": np.array(1.0)}, True, "Tensor name: y has no shape information "),
        ({"a": np.ones(2), "b": np.ones(3)}, True,
         "Tensor name: b has inconsistent batch size: 3 expecting: 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_rows_has_the_original_words(outputs, row_form, words):
    with pytest.raises(InvalidRequest) as caught:
        encode_predict(outputs, row_form)
    assert caught.value.message == words


@pytest.mark.parametrize(
    "dtype", [DType.HALF, DType.BFLOAT16, DType.UINT16, DType.COMPLEX64, DType.COMPLEX128]
)
def test_dtypes_without_a_json_form_have_the_original_words(dtype):
    with pytest.raises(InvalidRequest) as caught:
        encode_predict({"y": np.ones(1, numpy_dtype(dtype))}, row_form=True)
    assert caught.value.message == f"Failed to write JSON value for tensor type: {dtype.label}"


def test_classifications_are_lists_of_label_and_score():
    result = tfs_pb2.ClassificationResult()
    for scores in ([0.2, float("nan")], [1.0]):
        classes = result.classifications.add()
        for index, score in enumerate(scores):
            classes.classes.add(label=f'"{index}"', score=score)
    assert encode_classify(result).decode() == (
        '{\n    "results": [[["\\"0\\"", 0.2], ["\\"1\\"", NaN]], [["\\"0\\"", 1.0]]\n    ]\n}'
    )


def test_regressions_are_a_list():
    result = tfs_pb2.RegressionResult()
    for value in (0.2, 3.0):
        result.regressions.add(value=value)
    assert encode_regress(result) == b'{\n    "results": [0.2, 3.0]\n}'


def test_empty_results_have_the_original_words():
    with pytest.raises(InvalidRequest, match="Cannot convert empty ClassificationResults to JSON"):
        encode_classify(tfs_pb2.ClassificationResult())
    with pytest.raises(InvalidRequest, match="Cannot convert empty RegressionResults to JSON"):
        encode_regress(tfs_pb2.RegressionResult())
