"""What a Caffe network takes and gives, read from its description.

Inputs come in four spellings: `input` with four `input_dim` each, `input` with `input_shape`, and
`Input` layers with one shape for all tops or one for each. Outputs are the tops that no later layer
takes, as Caffe's own Net::Init finds them. Only layers of the TEST phase count, by the include and
exclude rules of Net::StateMeetsRule; OpenCV does not apply these, so what it reads is written anew
here: inputs in one spelling, TEST layers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servers.caffe.prototxt import Message, ParseError, Word, parse, write

_DATA_LAYERS = frozenset(
    {"data", "imagedata", "windowdata", "hdf5data", "memorydata", "dummydata", "annotateddata"}
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input blob with the shape that the description gives it."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One output blob: top number `index` of `layer`."""

    name: str
    layer: str
    index: int


@dataclass(frozen=True, slots=True)
class Network:
    """A description, reduced to what serving needs."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    deploy_text: str
    """The description as OpenCV is given it."""


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    source: Message


def read_network(data: bytes) -> Network:
    """The network that a prototxt describes.

    Raises:
        ParseError: the text is broken, or it describes a network for training.
    """
    tree = parse(data)
    field = "layer" if tree.messages("layer") else "layers"
    layers = [_layer(m) for m in tree.messages(field) if _is_in_test_phase(m)]
    if not layers:
        raise ParseError("it describes no layers")
    inputs = _header_inputs(tree)
    for layer in layers:
        kind = layer.type.lower().replace("_", "")
        if kind == "input":
            inputs.extend(_layer_inputs(layer))
        elif kind in _DATA_LAYERS:
            raise ParseError(
                f"layer {layer.name!r} ({layer.type}) reads training data; serve the "
                "deploy.prototxt, whose inputs are `input:` fields or Input layers"
            )
    _check_inputs(inputs)
    body = [layer for layer in layers if layer.type.lower() != "input"]
    return Network(tuple(inputs), _outputs(inputs, body), _deploy_text(tree, field, inputs, body))


def _layer(message: Message) -> _Layer:
    # The oldest files (V0) hold name and type in a message `layer` inside `layers`.
    inner = (message.messages("layer") or [message])[0]
    return _Layer(
        inner.text("name") or message.text("name"),
        inner.text("type") or message.text("type"),
        tuple(message.texts("bottom")),
        tuple(message.texts("top")),
        message,
    )


def _is_in_test_phase(message: Message) -> bool:
    includes, excludes = message.messages("include"), message.messages("exclude")
    if includes:
        return any(_meets(rule) for rule in includes)
    return not any(_meets(rule) for rule in excludes)


def _meets(rule: Message) -> bool:
    """Whether the state {phase: TEST, level: 0, no stages} meets a NetStateRule."""
    return (
        rule.text("phase", "TEST") in ("TEST", "1")
        and all(level <= 0 for level in rule.integers("min_level"))
        and all(level >= 0 for level in rule.integers("max_level"))
        and not rule.texts("stage")
    )


def _header_inputs(tree: Message) -> list[Input]:
    names = tree.texts("input")
    shapes = [tuple(m.integers("dim")) for m in tree.messages("input_shape")]
    if not shapes:
        dims = tree.integers("input_dim")
        if len(dims) != 4 * len(names):
            raise ParseError(
                f"{len(names)} inputs need four input_dim each and have {len(dims)} in all"
            )
        shapes = [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if len(shapes) != len(names):
        raise ParseError(f"{len(names)} inputs have {len(shapes)} input_shape")
    return [Input(name, shape) for name, shape in zip(names, shapes, strict=True)]


def _layer_inputs(layer: _Layer) -> list[Input]:
    parameters = layer.source.messages("input_param")
    shapes = [tuple(s.integers("dim")) for p in parameters for s in p.messages("shape")]
    if len(shapes) == 1:
        shapes = shapes * len(layer.tops)
    if len(shapes) != len(layer.tops):
        raise ParseError(
            f"Input layer {layer.name!r} has {len(layer.tops)} tops and {len(shapes)} shapes"
        )
    return [Input(top, shape) for top, shape in zip(layer.tops, shapes, strict=True)]


def _check_inputs(inputs: Sequence[Input]) -> None:
    if not inputs:
        raise ParseError("it has no inputs: neither `input:` fields nor Input layers")
    names = [i.name for i in inputs]
    for one in inputs:
        if not one.name or names.count(one.name) > 1:
            raise ParseError(f"the input name {one.name!r} is empty or used twice")
        if not one.shape or any(dim < 1 for dim in one.shape):
            raise ParseError(f"input {one.name!r} needs a shape of positive dims, not {one.shape}")


def _outputs(inputs: Sequence[Input], layers: Sequence[_Layer]) -> tuple[Output, ...]:
    """The blobs left over once each layer has taken its bottoms, in order of their making."""
    available: dict[str, Output | None] = {i.name: None for i in inputs}
    for layer in layers:
        if not layer.name:
            raise ParseError(f"a layer of type {layer.type!r} has no name")
        for bottom in layer.bottoms:
            available.pop(bottom, None)
        for index, top in enumerate(layer.tops):
            available[top] = Output(top, layer.name, index)
    outputs = tuple(made for made in available.values() if made is not None)
    if not outputs:
        raise ParseError("no layer's output is left over: there is nothing to answer")
    return outputs


def _deploy_text(
    tree: Message, field: str, inputs: Sequence[Input], layers: Sequence[_Layer]
) -> str:
    fields: list[tuple[str, Word | Message]] = [("name", Word(tree.text("name"), is_string=True))]
    for one in inputs:
        dims = tuple(("dim", Word(str(dim))) for dim in one.shape)
        fields.append(("input", Word(one.name, is_string=True)))
        fields.append(("input_shape", Message(dims)))
    fields.extend((field, layer.source) for layer in layers)
    return write(Message(tuple(fields)))
