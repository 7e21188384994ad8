from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_tensors import PROTO_ENUM, dtype_of, numpy_dtype, to_array, to_proto
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DType


def proto(dtype, shape, **values) -> tfs_pb2.TensorProto:
    made = tfs_pb2.TensorProto(dtype=PROTO_ENUM[dtype], **values)
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


VALUE_FORMS = [
    (DType.BOOL, {"bool_val": [True, False]}, [True, False]),
    (DType.INT8, {"int_val": [-128, 127]}, [-128, 127]),
    (DType.INT16, {"int_val": [-32768, 1]}, [-32768, 1]),
    (DType.INT32, {"int_val": [-(2**31), 1]}, [-(2**31), 1]),
    (DType.INT64, {"int64_val": [-(2**63), 1]}, [-(2**63), 1]),
    (DType.UINT8, {"int_val": [255, 1]}, [255, 1]),
    (DType.UINT16, {"int_val": [65535, 1]}, [65535, 1]),
    (DType.UINT32, {"uint32_val": [2**32 - 1, 1]}, [2**32 - 1, 1]),
    (DType.UINT64, {"uint64_val": [2**64 - 1, 1]}, [2**64 - 1, 1]),
    (DType.HALF, {"half_val": [0x3E00, 0xFC00]}, [1.5, -np.inf]),
    (DType.BFLOAT16, {"half_val": [0x3FC0, 0xFF80]}, [1.5, -np.inf]),
    (DType.FLOAT, {"float_val": [1.5, -0.0]}, [1.5, -0.0]),
    (DType.DOUBLE, {"double_val": [0.1, 1e300]}, [0.1, 1e300]),
    (DType.COMPLEX64, {"scomplex_val": [1, 2, 3, 4]}, [1 + 2j, 3 + 4j]),
    (DType.COMPLEX128, {"dcomplex_val": [1, 2, 3, 4]}, [1 + 2j, 3 + 4j]),
    (DType.STRING, {"string_val": [b"a\0", b"\xff"]}, [b"a\0", b"\xff"]),
]


@pytest.mark.parametrize(("dtype", "values", "expected"), VALUE_FORMS, ids=lambda x: str(x)[:12])
def test_each_dtype_is_read_from_its_typed_list(dtype, values, expected):
    array = to_array(proto(dtype, [2], **values))
    assert array.dtype == numpy_dtype(dtype)
    assert array.tolist() == np.array(expected, numpy_dtype(dtype)).tolist()


@pytest.mark.parametrize(("dtype", "values", "expected"), VALUE_FORMS, ids=lambda x: str(x)[:12])
def test_the_last_value_is_repeated(dtype, values, expected):
    array = to_array(proto(dtype, [2, 2], **values))
    wanted = np.array([*expected, expected[-1], expected[-1]], numpy_dtype(dtype)).reshape(2, 2)
    assert array.tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", list(DType))
def test_no_values_at_all_mean_zeros(dtype):
    array = to_array(proto(dtype, [3]))
    assert array.tolist() == ([b""] * 3 if dtype is DType.STRING else [0] * 3)


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (3, 0)])
def test_each_dtype_survives_the_wire_in_any_shape(dtype, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    array = (
        np.array([str(i).encode() for i in array.ravel()], object).reshape(shape)
        if dtype is DType.STRING
        else array.astype(numpy_dtype(dtype))
    )
    back = to_array(tfs_pb2.TensorProto.FromString(to_proto(array).SerializeToString()))
    assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
    assert dtype_of(back) is dtype


def test_fixed_sizes_travel_as_bytes():
    sent = to_proto(np.array([1.0], np.float32))
    assert (sent.tensor_content, list(sent.float_val)) == (b"\x00\x00\x80?", [])


def test_big_endian_and_strided_arrays_travel_as_the_values_they_show():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[::2, ::-1]
    back = to_array(to_proto(array))
    assert (back.dtype, back.tolist()) == (np.dtype("<i4"), array.tolist())


def test_a_bool_of_another_byte_than_one_is_true():
    array = to_array(proto(DType.BOOL, [3], tensor_content=b"\x00\x01\x02"))
    assert array.view(np.uint8).tolist() == [0, 1, 1]


def test_strings_as_cpp_packs_them_are_read():
    long = b"x" * 300
    array = to_array(proto(DType.STRING, [3], tensor_content=b"\x01\x00\xac\x02" + b"a" + long))
    assert array.tolist() == [b"a", b"", long]


@pytest.mark.parametrize("content", [b"\x02a", b"\x80" * 20, b"\xff", b"\x00a"])
def test_packed_strings_that_do_not_add_up_are_refused(content):
    with pytest.raises(InvalidRequest, match="does not hold the 1 strings"):
        to_array(proto(DType.STRING, [1], tensor_content=content))


@pytest.mark.parametrize(
    ("dtype", "shape", "values", "words"),
    [
        (DType.FLOAT, [3], {"tensor_content": b"1234"}, r"shape \[3\].*4 bytes.*expected 12"),
        (DType.FLOAT, [1], {"float_val": [1, 2]}, "has 2 values; expected at most 1"),
        (DType.FLOAT, [-1], {}, "negative size -1"),
        (DType.FLOAT, [2**40], {"float_val": [1]}, "limited to 64 MiB"),
        (DType.FLOAT, [2**62, 2**62], {}, "limited to 64 MiB"),
        (DType.FLOAT, [0, 2**62, 2**62], {}, "too large"),
        (DType.STRING, [2**40], {"tensor_content": b"\x00"}, "does not hold"),
        (DType.STRING, [2**40], {}, "limited to 64 MiB"),
        (DType.FLOAT, [1] * 33, {"float_val": [1]}, "33 dimensions"),
        (DType.INT8, [1], {"int_val": [128]}, "outside -128 to 127"),
        (DType.UINT8, [1], {"int_val": [-1]}, "outside 0 to 255"),
        (DType.HALF, [1], {"half_val": [70000]}, "outside 0 to 65535"),
        (DType.COMPLEX64, [2], {"scomplex_val": [1, 2, 3]}, "in pairs"),
    ],
)
def test_what_contradicts_itself_is_refused(dtype, shape, values, words):
    with pytest.raises(InvalidRequest, match=words):
        to_array(proto(dtype, shape, **values))


def test_an_unknown_rank_is_refused():
    made = proto(DType.FLOAT, [])
    made.tensor_shape.unknown_rank = True
    with pytest.raises(InvalidRequest, match="unknown_rank"):
        to_array(made)


@pytest.mark.parametrize("number", [0, 11, 20, 101, 999])
def test_types_that_we_do_not_carry_are_unimplemented(number):
    with pytest.raises(Unimplemented, match="not supported"):
        to_array(tfs_pb2.TensorProto(dtype=number))


def test_a_wanted_dtype_is_taken_where_nothing_is_lost():
    assert to_array(to_proto(np.array([1], np.int8), DType.INT64)).dtype == np.int64
    with pytest.raises(InvalidRequest, match="double cannot be sent as float"):
        to_proto(np.array([0.1]), DType.FLOAT)
    with pytest.raises(InvalidRequest, match="cannot be sent as string"):
        to_proto(np.array([0.1]), DType.STRING)


@pytest.mark.parametrize(
    "array", [np.array(["é", "b"]), np.array([b"\xc3\xa9", b"b"]), np.array(["é", b"b"], object)]
)
def test_text_is_sent_as_utf8(array):
    assert list(to_proto(array).string_val) == ["é".encode(), b"b"]


def test_an_object_array_of_anything_else_is_refused():
    with pytest.raises(InvalidRequest, match="not int"):
        to_proto(np.array([1, b"a"], object))


def test_dates_and_float8_have_no_tensor_type():
    for array in (np.zeros(1, "M8[s]"), np.zeros(1, ml_dtypes.float8_e5m2)):
        with pytest.raises(Unimplemented, match="no tensor type"):
            dtype_of(array)
