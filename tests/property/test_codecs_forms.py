"""What is read, or written, by its form is what the general codecs read and write."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import oip_proto, tfs_json, tfs_tensors
from gateway.codecs.oip_forms import InferAnswers, InferForms
from gateway.codecs.oip_infer import OipInfer, OipOutput
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.proto_forms import MAX_FORMS
from gateway.codecs.tfs_forms import PredictAnswers, PredictAsked, PredictForms
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import DType, Signature, TensorSpec

names = st.text("abcdefgh/:0é", min_size=1, max_size=12)
dtypes = st.sampled_from(
    [np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_, np.float16]
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    )
)
tensors = st.dictionaries(names, arrays, min_size=1, max_size=3)


def others(given_arrays):
    """The same dtypes and shapes with other bytes."""
    return {n: np.flip(a.copy()).astype(a.dtype) * a.dtype.type(1) for n, a in given_arrays.items()}


def same(one, two):
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.dtype == two[name].dtype
        assert array.shape == two[name].shape
        assert array.tobytes() == two[name].tobytes()


def predict_request(model, version, inputs, filters):
    request = tfs_pb2.PredictRequest(output_filter=filters)
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tfs_tensors.to_proto(array))
    return request


@given(names, st.none() | st.integers(0, 2**63 - 1), tensors, st.lists(names, max_size=2))
def test_a_predict_request_of_a_known_form_reads_as_any(model, version, inputs, filters):
    forms = PredictForms()
    first = predict_request(model, version, inputs, filters).SerializeToString()
    read = tfs_pb2.PredictRequest.FromString(first)
    asked = PredictAsked(model, version, None, "", tuple(filters))
    learnt = forms.learn_request(first, read, asked)
    second = tfs_pb2.PredictRequest.FromString(first)
    for name, array in others(inputs).items():
        second.inputs[name].tensor_content = tfs_tensors.to_proto(array).tensor_content
    # Maps have no order, so the message is changed where it stands.
    message = first
    for name in inputs:
        old, new = read.inputs[name].tensor_content, second.inputs[name].tensor_content
        if old and message.count(old) == 1:
            message = message.replace(old, new)
    meant = tfs_pb2.PredictRequest.FromString(message)
    found = forms.find(message)
    assert (found is None) == (learnt is None)
    if found is not None:
        assert found.said == asked
        same(
            found.arrays(message),
            {n: tfs_tensors.to_array(t) for n, t in meant.inputs.items()},
        )


@given(tensors, st.data())
def test_a_message_that_differs_outside_of_its_tensors_is_of_no_known_form(inputs, data):
    forms = PredictForms()
    message = predict_request("m", 1, inputs, []).SerializeToString()
    read = tfs_pb2.PredictRequest.FromString(message)
    if forms.learn_request(message, read, PredictAsked("m", 1, None, "", ())) is None:
        return
    at = data.draw(st.integers(0, len(message) - 1))
    changed = bytes([*message[:at], message[at] ^ 1, *message[at + 1 :]])
    found = forms.find(changed)
    if found is not None:
        meant = tfs_pb2.PredictRequest.FromString(changed)
        assert meant.model_spec == read.model_spec
        same(
            found.arrays(changed),
            {n: tfs_tensors.to_array(t) for n, t in meant.inputs.items()},
        )
    assert forms.find(message + b"\0") is None


def test_fields_that_occur_twice_teach_no_form():
    request = predict_request("m", None, {"x": np.ones(3, np.float32)}, [])
    message = request.SerializeToString() * 2
    read = tfs_pb2.PredictRequest.FromString(message)
    asked = PredictAsked("m", None, None, "", ())
    assert PredictForms().learn_request(message, read, asked) is None


@given(names, tensors, tensors)
def test_a_predict_response_of_a_known_form_says_what_any_says(signature, first, second):
    answers = PredictAnswers()

    def general(outputs):
        made = tfs_pb2.PredictResponse()
        made.model_spec.name = "m"
        made.model_spec.version.value = 7
        made.model_spec.signature_name = signature
        for name, array in outputs.items():
            made.outputs[name].CopyFrom(tfs_tensors.to_proto(array))
        return made

    for outputs in (first, second):
        message = general(outputs).SerializeToString()
        answers.learn(
            signature, outputs, {n: tfs_tensors.dtype_of(a) for n, a in outputs.items()}, message
        )
        for again in (outputs, others(outputs)):
            quick = answers.encode(signature, again)
            if quick is not None:
                assert tfs_pb2.PredictResponse.FromString(quick) == general(again)
            else:
                assert any(not a.nbytes for a in outputs.values())


@given(names, tensors, st.lists(names, max_size=2))
def test_an_infer_request_of_a_known_form_reads_as_any(model, inputs, outputs):
    forms = InferForms()
    asked = OipInfer("", dict(inputs), tuple(OipOutput(o) for o in outputs), model=model)
    first = oip_proto.encode_request_bytes(asked)
    read = oip_proto.decode_infer_bytes(first)
    learnt = forms.learn_request(first, read)
    again = oip_proto.encode_request_bytes(OipInfer("", others(inputs), asked.outputs, model=model))
    found = forms.find(again)
    assert (found is None) == (learnt is None)
    if found is not None:
        meant = oip_proto.decode_infer_bytes(again)
        same(found.arrays(again), meant.inputs)
        assert (found.said.outputs, found.said.model) == (meant.outputs, meant.model)


@given(names, tensors, st.text("a1", max_size=2))
def test_an_infer_response_is_the_same_to_the_byte(model, outputs, id):
    answers = InferAnswers(model, 3)
    for again in (outputs, others(outputs), outputs):
        quick = answers.encode(id, again)
        assert oip_pb2.ModelInferResponse.FromString(quick) == (
            oip_proto.encode_infer_proto(model, 3, id, again)
        )
        assert quick == oip_proto.encode_infer_bytes(model, 3, id, again)


def test_forms_that_never_come_again_are_not_learnt_for_ever():
    forms = PredictForms()
    for number in range(MAX_FORMS + 1):
        request = predict_request(f"m{number:04}", None, {"x": np.ones(2, np.float32)}, [])
        message = request.SerializeToString()
        assert not forms.is_useless
        asked = PredictAsked(request.model_spec.name, None, None, "", ())
        forms.learn_request(message, request, asked)
    assert forms.is_useless


numbers = st.floats(width=64, allow_nan=False, allow_infinity=False) | st.integers(
    -(2**63), 2**64 - 1
)
values = numbers | st.booleans() | st.none() | st.text(max_size=3)


@given(
    st.sampled_from([DType.FLOAT, DType.DOUBLE]),
    st.lists(st.lists(values, min_size=2, max_size=2), max_size=3),
)
def test_json_rows_read_alike_by_the_quick_way_and_the_careful(dtype, rows):
    signatures = {"serving_default": Signature({"x": TensorSpec("x", dtype, None)}, {})}

    def read(body):
        try:
            return tfs_json.decode_predict(body, signatures).inputs["x"]
        except GatewayError as error:
            return str(error).partition(" JSON Value")[0]

    plain = json.dumps({"instances": rows}).encode()
    # A key with an `r` in it makes the decoder look for words.
    careful = json.dumps({"signature_name": "serving_default", "instances": rows}).encode()
    one, two = read(plain), read(careful)
    if isinstance(one, str) or isinstance(two, str):
        assert isinstance(one, str) == isinstance(two, str)
    else:
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()
