"""Tensors survive the wire, and no message makes the codec fail in another way than a refusal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_tensors import numpy_dtype, to_array, to_proto
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import DType

pytestmark = pytest.mark.slow

NUMBERS = [d for d in DType if d not in (DType.STRING, DType.BFLOAT16)]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NUMBERS).flatmap(lambda d: hnp.arrays(numpy_dtype(d), shapes)))
def test_numbers_survive_to_the_bit(array):
    back = to_array(tfs_pb2.TensorProto.FromString(to_proto(array).SerializeToString()))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(object, shapes, elements=st.binary(max_size=9)))
def test_strings_survive(array):
    back = to_array(tfs_pb2.TensorProto.FromString(to_proto(array).SerializeToString()))
    assert (back.shape, back.tolist()) == (array.shape, array.tolist())


sizes = st.integers(0, 6) | st.integers(-(2**63), 2**63 - 1)
LISTS = {
    "float_val": st.floats(width=32),
    "double_val": st.floats(),
    "int_val": st.integers(-(2**31), 2**31 - 1),
    "string_val": st.binary(max_size=4),
    "scomplex_val": st.floats(width=32),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "bool_val": st.booleans(),
    "half_val": st.integers(0, 2**17),
    "uint32_val": st.integers(0, 2**32 - 1),
    "uint64_val": st.integers(0, 2**64 - 1),
}


@st.composite
def protos(draw):
    proto = tfs_pb2.TensorProto(dtype=draw(st.integers(0, 30)))
    for size in draw(st.lists(sizes, max_size=4)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = draw(st.just(b"") | st.binary(max_size=32))
    for name in draw(st.sets(st.sampled_from(sorted(LISTS)), max_size=2)):
        getattr(proto, name).extend(draw(st.lists(LISTS[name], max_size=6)))
    return proto


@settings(max_examples=500, deadline=None)
@given(protos())
def test_any_message_is_an_array_of_its_shape_or_a_refusal(proto):
    try:
        array = to_array(proto)
    except GatewayError:
        return
    assert array.shape == tuple(dim.size for dim in proto.tensor_shape.dim)
    assert array.nbytes <= 64 << 20 or array.size == 0
    assert np.isfortran(array) is False
