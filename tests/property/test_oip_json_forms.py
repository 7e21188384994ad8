"""What V2 over HTTP reads or writes by a form is what the general codec reads and writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import oip_json
from gateway.codecs.oip_infer import OipInfer, OipOutput
from gateway.codecs.oip_json_forms import InferTexts, RequestForms, with_id, without_id
from gateway.codecs.proto_forms import MAX_FORMS
from gateway.domain.errors import GatewayError

pytestmark = pytest.mark.slow

DATATYPES = {
    "FP32": np.float32, "FP64": np.float64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "BOOL": np.bool_, "FP16": np.float16,
}  # fmt: skip

names = st.text('xdat:/"\\\u00e9lr', min_size=1, max_size=6) | st.just("data")
ids = st.text("ab-_ 1:{}[],'\"\\\u00e9\x7f", max_size=6)
shapes = st.lists(st.integers(0, 3), max_size=3)

edge_numbers = st.sampled_from(
    [0, -0.0, 1, 0.1, 1e-45, 1e-320, 3.4028235e38, 3.4028236e38, 1e308, 127, 128, -128, -129, 255,
     256, 2**15, 2**16, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
     -(2**63) - 1, 16777217]
)  # fmt: skip
numbers = edge_numbers | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
odd = st.booleans() | st.none() | st.sampled_from(["1", "", "x"]) | st.just({}) | st.just([])
values = numbers | numbers | numbers | odd


def nested(flat, shape):
    """The list as deep as its shape, where it has as many elements."""
    if not shape or len(flat) != int(np.prod(shape)):
        return flat
    return np.array([*flat, None], object)[:-1].reshape(shape).tolist()


@st.composite
def lists(draw, shape, strategy):
    size = int(np.prod(shape))
    flat = draw(st.lists(strategy, min_size=size, max_size=size))
    if draw(st.integers(0, 9)) == 0:
        flat = flat[:-1] if flat and draw(st.booleans()) else [*flat, 1]
    return nested(flat, shape) if draw(st.booleans()) else flat


@st.composite
def requests(draw, *, plain=False):
    """Bodies around the same hole: the first has data that its datatype takes, the others anything.
    Documents with and without all that the protocol knows, in any order of keys and any layout;
    `plain` ones are as clients write them."""
    shape = draw(shapes)
    word = draw(st.sampled_from(sorted(DATATYPES)))
    if plain or draw(st.booleans()):
        word = draw(st.sampled_from(["FP32", "FP64", "INT32", "INT64", "UINT8"]))
    record = {"name": draw(names), "shape": shape, "datatype": word, "data": "HOLE"}
    document = {"inputs": [record]}
    if not plain and draw(st.integers(0, 3)) == 0:
        record["parameters"] = draw(st.sampled_from([{}, {"a": 1}, {"data": [1]}, {"l": True}]))
    if draw(st.booleans()):
        document = {"id": draw(ids), **document}
    if draw(st.booleans()):
        document["outputs"] = [{"name": draw(names), "parameters": {"binary_data": True}}]
    if not plain and draw(st.booleans()):
        document["parameters"] = draw(
            st.sampled_from([{"timeout": 5}, {"binary_data_output": True}, {"data": "data"}])
        )
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    if not plain and draw(st.integers(0, 3)) == 0:
        document = {key: document[key] for key in draw(st.permutations(sorted(document)))}
        separators = (" ,\n", " :\t")
    document["inputs"] = [{key: record[key] for key in draw(st.permutations(sorted(record)))}]
    text = json.dumps(document, separators=separators, ensure_ascii=draw(st.booleans()))
    fit = st.integers(0, 99) | st.floats(-9, 9) if word.startswith("FP") else st.integers(0, 99)
    size = int(np.prod(shape))
    first = draw(st.lists(fit, min_size=size, max_size=size))
    others = [draw(lists(shape, strategy)) for strategy in (fit, numbers, values)]
    texts = [json.dumps(data, separators=separators) for data in (nested(first, shape), *others)]
    texts.append(draw(st.sampled_from(["[NaN]", "[1,]", "1", "[1]]", "[1", "", '"', "[1],[1]"])))
    return [text.replace('"HOLE"', data).encode() for data in texts]


def outcome(read, *args):
    try:
        return read(*args)
    except GatewayError as error:
        return repr(error)


def same_request(one: OipInfer, two: OipInfer) -> None:
    assert (one.id, one.outputs, one.parameters, one.binary_output) == (
        two.id, two.outputs, two.parameters, two.binary_output
    )  # fmt: skip
    same_arrays(one.inputs, two.inputs)


def same_arrays(one, two) -> None:
    assert list(one) == list(two)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (two[name].dtype, two[name].shape)
        assert array.tobytes() == two[name].tobytes()


def by_forms(forms: RequestForms, body: bytes, length: int | None) -> OipInfer | None:
    """As the server does: None where the request is of no known form."""
    id, bare, bare_length = without_id(body, length)
    form = forms.find(bare, bare_length)
    arrays = form.arrays(bare) if form is not None else None
    if form is None or arrays is None:
        return None
    said = with_id(form.said, id)
    return OipInfer(said.id, arrays, said.outputs, said.parameters, said.binary_output)


def learn(forms: RequestForms, body: bytes, length: int | None, asked: OipInfer):
    id, bare, bare_length = without_id(body, length)
    return forms.learn(bare, bare_length, with_id(asked, "") if id else asked)


@settings(max_examples=400, deadline=None)
@given(requests(), st.booleans())
def test_a_request_in_json_of_a_known_form_reads_as_any(bodies, says_length):
    forms = RequestForms()
    for body in bodies:
        length = len(body) if says_length else None
        meant = outcome(oip_json.decode_infer, body, length)
        found = by_forms(forms, body, length)
        if found is not None:
            assert isinstance(meant, OipInfer), (body, meant)
            same_request(found, meant)
        elif isinstance(meant, OipInfer):
            learn(forms, body, length, meant)


@settings(max_examples=200, deadline=None)
@given(requests(plain=True), st.data())
def test_a_changed_byte_is_never_read_past(bodies, data):
    body = bodies[0]
    meant = oip_json.decode_infer(body)
    forms = RequestForms()
    learn(forms, body, None, meant)
    at = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):  # among the numbers
        at = body.index(b'"data":') + 8 + at % 8
    byte = data.draw(st.sampled_from(b'"\\[]{},: 0e-tx') | st.integers(0, 255))
    deed = data.draw(st.sampled_from(["change", "insert", "remove"]))
    middle = b"" if deed == "remove" else bytes([byte])
    assume(at < len(body))
    changed = body[:at] + middle + body[at + (deed != "insert") :]
    found = by_forms(forms, changed, None)
    if found is not None:
        same_request(found, oip_json.decode_infer(changed))


arrays = st.sampled_from(sorted(set(DATATYPES) - {"BOOL"})).flatmap(
    lambda word: hnp.arrays(
        DATATYPES[word], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    )
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(names, arrays, min_size=1, max_size=3),
    ids,
    st.lists(names, max_size=2, unique=True),
    st.data(),
)
def test_a_request_with_bytes_behind_it_reads_as_any(inputs, id, outputs, data):
    forms = RequestForms()
    asked = OipInfer(id, inputs, tuple(OipOutput(name, True) for name in outputs))
    length, body = oip_json.encode_request(asked)
    meant = oip_json.decode_infer(body, length)
    learnt = learn(forms, body, length, meant)
    others = {n: np.flip(a.copy()).astype(a.dtype) for n, a in inputs.items()}
    length, body = oip_json.encode_request(OipInfer(id, others, asked.outputs))
    found = by_forms(forms, body, length)
    assert (found is None) == (learnt is None)
    if found is not None:
        same_request(found, oip_json.decode_infer(body, length))
    # What the header says counts, whatever the bytes are.
    other = data.draw(st.none() | st.integers(0, len(body)))
    if other != length:
        assert by_forms(forms, body, other) is None or other is None
        assert by_forms(forms, body + b"\0", length) is None


@pytest.mark.parametrize("known", ["with an id", "without"])
def test_an_id_at_the_beginning_is_no_part_of_the_form(known):
    def body(id: str, number: float) -> bytes:
        document = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [number]}]}
        return json.dumps({"id": id, **document} if id else document).encode()

    forms = RequestForms()
    first = body("a" if known == "with an id" else "", 1)
    assert learn(forms, first, None, oip_json.decode_infer(first)) is not None
    for id in ("", "b", "c d: {}", "x" * 128):
        found = by_forms(forms, body(id, 2.5), None)
        assert found is not None
        assert (found.id, found.inputs["x"].tolist()) == (id, [2.5])
    assert by_forms(forms, body("x" * 129, 1), None) is None
    assert by_forms(forms, body('"', 1), None) is None


def test_nor_is_it_where_bytes_follow():
    forms = RequestForms()
    for number, id in enumerate(("a", "", "bcd", "c d: {}")):
        x = np.array([number, 2.5], np.float32)
        length, body = oip_json.encode_request(OipInfer(id, {"x": x}))
        meant = oip_json.decode_infer(body, length)
        if number == 0:
            assert learn(forms, body, length, meant) is not None
        found = by_forms(forms, body, length)
        assert found is not None
        same_request(found, meant)
        assert by_forms(forms, body, length - 1) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"parameters":{"data":[%d]},"name":"x","shape":[1],"datatype":"FP32",'
        b'"data":[2]}]}',
        b'{"outputs":[{"name":"y","parameters":{"data":[%d],"classification":0}}],'
        b'"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[2]}]}',
        b'{"x":{"data":[%d]},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[2]}]}',
    ],
)
def test_what_is_called_data_elsewhere_is_no_tensor(body):
    forms = RequestForms()
    first = outcome(oip_json.decode_infer, body % 1)
    if isinstance(first, OipInfer):
        learn(forms, body % 1, None, first)
    found = by_forms(forms, body % 3, None)
    assert found is None or found.inputs["x"].tolist() == [2]


def test_an_id_that_is_given_twice_is_the_first():
    forms = RequestForms()
    rest = b'"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%d]}]}'
    for number, first in enumerate((b"a", b"c", b"c")):
        body = b'{"id":"%b","id":"b",' % first + rest % number
        meant = oip_json.decode_infer(body)
        assert meant.id == first.decode()
        found = by_forms(forms, body, None)
        if found is not None:
            same_request(found, meant)
        else:
            learn(forms, body, None, meant)
    body = b'{"id":"b",' + rest % 7
    found = by_forms(forms, body, None)
    assert found is None or found.id == "b"


def test_booleans_and_keys_that_occur_twice_teach_no_form():
    forms = RequestForms()
    for body in (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"BOOL","data":[true]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"shape":[2],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"data":[1],"data":[2],"name":"x","shape":[1],"datatype":"FP32"}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]},'
        b'{"name":"y","shape":[1],"datatype":"FP32","data":[1]}]}',
    ):
        assert learn(forms, body, None, oip_json.decode_infer(body)) is None


def test_a_true_in_the_data_is_no_number_whatever_came_before():
    forms = RequestForms()
    body = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[%b]}]}'
    assert learn(forms, body % b"1,0", None, oip_json.decode_infer(body % b"1,0")) is not None
    assert by_forms(forms, body % b"0,1", None) is not None
    for data in (b"true,0", b"0,false", b"null,0", b"NaN,0", b"1", b"1,2,3", b"1,[2]", b'"1",2'):
        assert by_forms(forms, body % data, None) is None


def test_forms_that_never_come_again_are_not_learnt_for_ever():
    forms = RequestForms()
    body = b'{"inputs":[{"name":"x%03d","shape":[1],"datatype":"FP32","data":[1]}]}'
    for number in range(MAX_FORMS + 1):
        one = body % number
        assert forms.learn(one, None, oip_json.decode_infer(one)) is not None
    assert forms.learn(body % 999, None, oip_json.decode_infer(body % 999)) is None


def test_endings_are_bounded_for_one_beginning():
    forms = RequestForms()
    body = b'{"inputs":[{"data":[1],"name":"%b","shape":[1],"datatype":"FP32"}]}'
    learnt = 0
    for number in range(40):
        one = body % (b"x" * (number + 1))
        learnt += forms.learn(one, None, oip_json.decode_infer(one)) is not None
    assert learnt == 16


outputs = st.dictionaries(
    names,
    st.sampled_from(sorted(DATATYPES)).flatmap(
        lambda word: hnp.arrays(
            DATATYPES[word], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
        )
    )
    | hnp.arrays(object, 2, elements=st.binary(max_size=3)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(names, outputs, ids, st.booleans(), st.data())
def test_an_answer_is_the_same_to_the_byte(model, made, id, binary, data):
    texts = InferTexts(model, 7)
    asked = data.draw(st.lists(st.sampled_from(sorted(made)), unique=True))
    wanted = OipInfer(
        id,
        {},
        tuple(OipOutput(name, data.draw(st.booleans())) for name in asked),
        binary_output=binary,
    )
    for again in (made, {n: np.flip(a) for n, a in made.items()}, made):
        for one in (wanted, with_id(wanted, "other")):
            meant = outcome(oip_json.encode_infer, model, 7, one.id, again, one)
            assert outcome(texts.encode, again, one) == meant
