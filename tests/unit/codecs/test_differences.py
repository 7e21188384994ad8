"""Two answers compared, by numbers that can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.codecs.differences import differences, outputs_of, signature_name_of
from gateway.codecs.tfs_tensors import dtype_of
from gateway.codecs.translate import Dialect
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType, Signature, TensorSpec

F = np.float32
NAN, INF = float("nan"), float("inf")


def one(a, b, tolerance=0.01):
    (found,) = differences({"y": np.asarray(a)}, {"y": np.asarray(b)}, tolerance)
    return found


@pytest.mark.parametrize(
    ("a", "b", "differing", "flips", "abs_error", "rel_error"),
    [
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], 0.0, 0.0, 0.0, 0.0),
        # 0.1 of 4 is 0.1 / (4 + 0.4); 0.02 of 1 is 0.02 / (1 + 0.4).
        ([[1, 2], [3, 4]], [[1, 2], [3, 4.1]], 0.5, 0.0, 0.1, 0.1 / 4.4),
        ([[1, 2], [3, 4]], [[1.02, 2], [3, 4]], 0.5, 0.0, 0.02, 0.02 / 1.4),
        ([[1, 2], [3, 4]], [[1.01, 2], [3, 4]], 0.0, 0.0, 0.01, 0.01 / 1.4),
        # What is next to nothing in its tensor has a tenth of the scale to move in.
        ([[1.0, 0.0]], [[1.0, 9e-4]], 0.0, 0.0, 9e-4, 9e-3),
        ([[0.0, 0.0]], [[0.0, 1.0]], 1.0, 0.0, 1.0, 10.0),
        ([[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.2, 0.8]], 0.5, 0.5, 0.8, 0.8 / 0.19),
        # A tie in either is no flip.
        ([[0.5, 0.5, 0.0]], [[0.4, 0.6, 0.0]], 1.0, 0.0, 0.1, 0.1 / 0.55),
        ([[0.4, 0.6]], [[0.5, 0.5]], 1.0, 0.0, 0.1, 0.1 / 0.46),
        # One axis, or one class: nothing to be first of.
        ([1, 2, 3, 4], [1, 2, 3, 5], 0.25, None, 1.0, 1 / 4.4),
        ([[1], [2]], [[1], [1]], 0.5, None, 1.0, 1 / 2.2),
        (1.0, 3.0, 1.0, None, 2.0, 2 / 1.1),
        # Every vector counts for flips, every row for what differs.
        ([[[1, 0], [1, 0]], [[1, 0], [1, 0]]], [[[0, 1], [1, 0]], [[1, 0], [1, 0]]], 0.5, 0.25, 1.0,
         10.0),
    ],
)  # fmt: skip
def test_errors_and_flips_by_hand(a, b, differing, flips, abs_error, rel_error):
    found = one(np.array(a, float), np.array(b, float))
    assert (found.differing, found.flips) == (differing, flips)
    assert found.abs_error == pytest.approx(abs_error)
    assert found.rel_error == pytest.approx(rel_error)
    assert not found.mismatch


@pytest.mark.parametrize(
    ("a", "b", "differing"),
    [
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([INF, -INF], [INF, -INF], 0.0),
        ([NAN, 1.0], [0.0, 1.0], 0.5),
        ([INF, 1.0], [1.0, 1.0], 0.5),
        ([INF, 1.0], [-INF, 1.0], 0.5),
        ([1.0, 1.0], [NAN, NAN], 1.0),
        ([[NAN, 1.0]], [[2.0, 1.0]], 1.0),
    ],
)
def test_what_is_no_number_agrees_with_itself_only_and_makes_no_error_infinite(a, b, differing):
    found = one(np.array(a), np.array(b))
    assert found.differing == differing
    assert np.isfinite([found.abs_error, found.rel_error, found.cosine]).all()


def test_huge_doubles_have_finite_numbers():
    found = one(np.array([[1.7e308, -1.7e308]]), np.array([[-1.7e308, 1.7e308]]))
    assert np.isfinite([found.abs_error, found.rel_error]).all()
    assert (found.cosine, found.flips, found.differing) == (-1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "differing"),
    [
        (np.array([300, 2]), np.array([299, 2]), 0.5),
        (np.array([300, 2]), np.array([300, 2]), 0.0),
        (np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64), 1.0),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array([b"cat", b"dog"], object), np.array([b"cat", b"cow"], object), 0.5),
    ],
)
def test_labels_are_equal_or_they_are_not(a, b, differing):
    found = one(a, b, tolerance=0.5)
    assert (found.differing, found.flips) == (differing, None)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 3), F), np.zeros((1, 4), F), "is float32[1,4] instead of float32[1,3]"),
        (np.zeros(2, F), np.zeros(2, np.float16), "is float16[2] instead of float32[2]"),
        (np.array([b"a"], object), np.zeros(1, F), "is float32[1] instead of string[1]"),
        (np.zeros(()), np.zeros(1), "is float64[1] instead of float64[]"),
    ],
)
def test_another_form_is_a_difference_in_everything(a, b, words):
    found = one(a, b)
    assert (found.mismatch, found.differing) == (words, 1.0)


def test_outputs_that_only_one_has_are_named():
    found = differences({"a": np.zeros(1), "b": np.zeros(1)}, {"b": np.zeros(1), "c": 1}, 0.01)
    assert [(d.output, d.mismatch.rpartition(" ")[0], d.differing) for d in found] == [
        ("a", "is missing in the canary's", 1.0),
        ("b", "", 0.0),
        ("c", "is missing in the stable version's", 1.0),
    ]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_tensors_agree(shape):
    found = one(np.zeros(shape, F), np.zeros(shape, F))
    assert (found.differing, found.flips, found.mismatch) == (0.0, None, "")


def test_half_floats_and_complex_numbers_are_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.array([[0.25, 0.75]], ml_dtypes.bfloat16)
    assert one(a, a[:, ::-1]).flips == 1.0
    assert one(a.astype(np.float16), a[:, ::-1].astype(np.float16)).abs_error == 0.5
    found = one(np.array([[1 + 1j, 2]]), np.array([[1 + 1j, 2j]]))
    assert (found.flips, found.cosine, found.differing) == (None, None, 1.0)
    assert found.abs_error == pytest.approx(8**0.5)


# ---- answers of TensorFlow Serving's REST, which do not describe themselves --------------------

ONE = {"s": Signature({}, {"y": TensorSpec("y", DType.FLOAT, (-1, 2))})}
TWO = {
    "s": Signature(
        {},
        {
            "y": TensorSpec("y", DType.FLOAT, (-1,)),
            "label": TensorSpec("label", DType.STRING, (-1,)),
        },
    )
}


@pytest.mark.parametrize(
    ("answer", "signatures", "expected"),
    [
        ({"predictions": [[1, 2], [3, 4]]}, ONE, {"y": [[1, 2], [3, 4]]}),
        ({"outputs": [[1, 2], [3, 4]]}, ONE, {"y": [[1, 2], [3, 4]]}),
        (
            {"predictions": [{"y": 1, "label": "a"}, {"y": 2, "label": "b"}]},
            TWO,
            {"y": [1, 2], "label": [b"a", b"b"]},
        ),
        ({"outputs": {"y": [1], "label": ["a"]}}, TWO, {"y": [1], "label": [b"a"]}),
        ({"predictions": []}, TWO, {}),
    ],
)
def test_rows_and_columns_are_read_alike(answer, signatures, expected):
    body = json.dumps(answer).encode()
    found = outputs_of(Dialect.TFS_REST, body, signatures, "s", header_length=None)
    assert {name: array.tolist() for name, array in found.items()} == expected
    if "y" in found:
        assert dtype_of(found["y"]) is DType.FLOAT


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"predictions":[[1,2]]}', "other"),
        (b'{"predictions":[{"y":1,"label":"a"},{"y":2}]}', "s"),
        (b'{"predictions":[{"y":1,"label":"a"},3]}', "s"),
        (b'{"error":"x"}', "s"),
        (b"nonsense", "s"),
    ],
)
def test_what_is_no_answer_is_refused(body, name):
    with pytest.raises(InvalidRequest):
        outputs_of(Dialect.TFS_REST, body, TWO, name, header_length=None)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"instances":[1]}', "serving_default"),
        (b'{"signature_name":"top","instances":[1]}', "top"),
        (b'{"instances":["\\"signature_name\\""]}', "serving_default"),
        (b'{"signature_name":3}', "serving_default"),
    ],
)
def test_the_signature_that_a_request_names(body, name):
    assert signature_name_of(body) == name
