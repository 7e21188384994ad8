"""TensorFlow Serving's JSON bodies: predict, classify and regress, both ways.

The words and the order of the checks are those of util/json_tensor.cc, because clients match on
them. Text is parsed in json_text.py, values become arrays in json_arrays.py and tf.Examples in
json_examples.py, arrays become text in json_write.py; this module is the protocol between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from gateway.codecs.json_arrays import join_records, join_values, tensor
from gateway.codecs.json_examples import example_of
from gateway.codecs.json_text import echo, has_words, is_b64, parse_object
from gateway.codecs.json_write import columns_text, float32_text, rows_text, string_text
from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class PredictCall:
    """A decoded predict body."""

    signature_name: str
    """Never empty: what the body left out is `serving_default`."""
    inputs: dict[str, NDArray[Any]]
    """By alias, with the signature's dtypes; shapes as sent, not yet held to the signature."""
    row_form: bool
    """Whether it came as `instances`, so that the answer goes as `predictions`."""


@dataclass(frozen=True, slots=True)
class ExamplesCall:
    """A decoded classify or regress body."""

    signature_name: str
    examples: list[bytes]
    """Serialized tf.Examples, the context merged in."""


def decode_predict(body: bytes, signatures: Mapping[str, Signature]) -> PredictCall:
    """Read `{"signature_name"?, "instances" | "inputs"}`.

    Every input of the signature must be there, also one that has a default: the original offers
    defaults to gRPC callers only.

    Raises:
        InvalidRequest: in the original's words (`bad_json`, `signature_unknown`, `unknown_input`,
            `bad_shape`, `bad_dtype`, `bad_b64`).
        Unimplemented: an input's dtype has no JSON form.
    """
    document = parse_object(body)
    name = _signature_name(document)
    if name not in signatures:
        raise InvalidRequest(
            f'Serving signature name: "{name}" not found in signature def',
            reason="signature_unknown",
        )
    specs = signatures[name].inputs
    if not specs:
        raise InvalidRequest(
            f"Failed to get input map for signature: {document.get('signature_name') or 'DEFAULT'}",
            reason="signature_unknown",
        )
    if "instances" in document:
        if "inputs" in document:
            raise _format_error(
                document,
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to "
                "exist ",
            )
        arrays = _instances(document, specs, may_have_bools=has_words(body))
        return PredictCall(name, arrays, row_form=True)
    if "inputs" in document:
        return PredictCall(name, _inputs(document["inputs"], specs), row_form=False)
    raise InvalidRequest("Missing 'inputs' or 'instances' key", reason="bad_json")


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or DEFAULT_SIGNATURE


def _instances(
    document: dict[str, Any], specs: Mapping[str, TensorSpec], *, may_have_bools: bool
) -> dict[str, NDArray[Any]]:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise _format_error(document, "No values in 'instances' array")
    if isinstance(rows[0], dict) and not is_b64(rows[0]):
        return join_records(rows, specs)
    if len(specs) > 1:
        raise InvalidRequest(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map",
            reason="unknown_input",
        )
    [(alias, spec)] = specs.items()
    return {alias: join_values(rows, spec, may_have_bools=may_have_bools)}


def _inputs(value: object, specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    if not isinstance(value, dict) or is_b64(value):
        if len(specs) > 1:
            raise InvalidRequest(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map",
                reason="unknown_input",
            )
        [(alias, spec)] = specs.items()
        return {alias: tensor(value, spec.dtype)}
    arrays = {}
    for alias, spec in specs.items():
        if alias not in value:
            raise InvalidRequest(
                f"Missing named input: {alias} in 'inputs' object.", reason="unknown_input"
            )
        arrays[alias] = tensor(value[alias], spec.dtype)
    return arrays


def encode_predict(outputs: Mapping[str, NDArray[Any]], row_form: bool) -> bytes:
    """The answer's body, in the form in which the request came.

    Raises:
        InvalidRequest: there are no outputs, one cannot be cut into rows, or has no JSON form.
    """
    if not outputs:
        raise InvalidRequest("Cannot convert empty tensor map to JSON", reason="bad_output")
    return rows_text(outputs) if row_form else columns_text(outputs)


def decode_examples(body: bytes) -> ExamplesCall:
    """Read `{"signature_name"?, "context"?, "examples": [{feature: value}]}`.

    Raises:
        InvalidRequest: in the original's words (`bad_json`, `bad_example`, `bad_b64`).
    """
    document = parse_object(body)
    name = _signature_name(document)
    context = b""
    if "context" in document:
        context = example_of(document["context"]).SerializeToString()
    if "examples" not in document:
        # The original says "classify" to callers of regress, too.
        raise _format_error(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    return ExamplesCall(name, [context + example_of(e).SerializeToString() for e in examples])


def encode_classify(result: tfs_pb2.ClassificationResult) -> bytes:
    """`{"results": [[["label", score], …], …]}`.

    Raises:
        InvalidRequest: there are no classifications.
    """
    if not result.classifications:
        raise InvalidRequest(
            "Cannot convert empty ClassificationResults to JSON", reason="bad_output"
        )
    items = []
    for one in result.classifications:
        pairs = (
            b"[" + string_text(c.label) + b", " + float32_text(c.score) + b"]" for c in one.classes
        )
        items.append(b"[" + b", ".join(pairs) + b"]")
    return b'{\n    "results": [' + b", ".join(items) + b"\n    ]\n}"


def encode_regress(result: tfs_pb2.RegressionResult) -> bytes:
    """`{"results": [value, …]}`.

    Raises:
        InvalidRequest: there are no regressions.
    """
    if not result.regressions:
        raise InvalidRequest("Cannot convert empty RegressionResults to JSON", reason="bad_output")
    values = b", ".join(float32_text(r.value) for r in result.regressions)
    return b'{\n    "results": [' + values + b"]\n}"


def _format_error(document: dict[str, Any], what: str) -> InvalidRequest:
    return InvalidRequest(f"JSON Value: {echo(document)} {what}", reason="bad_json")
