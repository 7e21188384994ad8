"""What a network takes and gives."""

from __future__ import annotations

import pytest

from servers.caffe.network import Input, Output, read_network
from servers.caffe.prototxt import ParseError

RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "out" }'


@pytest.mark.parametrize(
    "inputs",
    [
        'input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5',
        'input: "data" input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }',
        'input: "data" input_shape { dim: [2, 3, 4, 5] }',
        'layer { name: "d" type: "Input" top: "data" '
        "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }",
    ],
)
def test_every_spelling_of_inputs(inputs):
    network = read_network((inputs + "\n" + RELU).encode())
    assert network.inputs == (Input("data", (2, 3, 4, 5)),)
    assert network.outputs == (Output("out", "r", 0),)


def test_one_shape_may_stand_for_all_tops_of_an_input_layer():
    text = (
        'layer { name: "d" type: "Input" top: "data" top: "b" input_param { shape { dim: 2 } } }'
        'layer { name: "s" type: "Eltwise" bottom: "data" bottom: "b" top: "out" }'
    )
    assert read_network(text.encode()).inputs == (Input("data", (2,)), Input("b", (2,)))


def test_outputs_are_the_tops_nobody_takes_in_place_layers_included():
    text = """input: "data" input_shape { dim: 1 dim: 4 }
      layer { name: "cut" type: "Slice" bottom: "data" top: "a" top: "b" }
      layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
      layer { name: "end" type: "Softmax" bottom: "b" top: "prob" }"""
    outputs = read_network(text.encode()).outputs
    assert outputs == (Output("a", "relu", 0), Output("prob", "end", 0))


def test_training_layers_do_not_count():
    text = """input: "data" input_shape { dim: 1 dim: 4 }
      layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } }
      layer { name: "drop" type: "Dropout" bottom: "data" top: "x" exclude { phase: TEST } }
      layer { name: "staged" type: "ReLU" bottom: "data" top: "y" include { stage: "x" } }
      layer { name: "r" type: "ReLU" bottom: "data" top: "out" include { phase: TEST } }"""
    network = read_network(text.encode())
    assert network.outputs == (Output("out", "r", 0),)
    assert "drop" not in network.deploy_text


def test_old_layers_are_read_too():
    text = 'input: "data" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1'
    v1 = 'layers { name: "r" type: RELU bottom: "data" top: "out" }'
    v0 = 'layers { layer { name: "r" type: "relu" } bottom: "data" top: "out" }'
    for layers in (v1, v0):
        assert read_network((text + "\n" + layers).encode()).outputs == (Output("out", "r", 0),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no layers"),
        (RELU, "no inputs"),
        ('input: "data" ' + RELU, "four input_dim"),
        ('input: "data" input_shape { dim: 0 } ' + RELU, "positive dims"),
        ('input: "data" input_shape { dim: x } ' + RELU, "must be integers"),
        ('input: "a" input_shape { dim: 1 } input_shape { dim: 1 }' + RELU, "2 input_shape"),
        (
            'input: "a" input_shape { dim: 1 } input: "a" input_shape { dim: 1 }' + RELU,
            "used twice",
        ),
        ('layer { name: "d" type: "Data" top: "data" }' + RELU, "training data"),
        (
            'input: "data" input_shape { dim: 1 }'
            'layer { name: "s" type: "Silence" bottom: "data" }',
            "nothing to answer",
        ),
    ],
)
def test_what_cannot_be_served_is_said(text, words):
    with pytest.raises(ParseError, match=words):
        read_network(text.encode())
