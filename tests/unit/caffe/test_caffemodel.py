"""Reading layer names out of a caffemodel's bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.caffe.caffemodel import Truncated, layers_with_weights
from tests.parts.real_models import OPEN_NSFW_CAFFE, model_dir
from tests.parts.tiny_caffe import caffemodel

ONE = np.ones((2, 2), np.float32)


def test_layers_with_blobs_are_named():
    data = caffemodel({"ip": [ONE], "relu": [], "conv/1x1": [ONE, ONE]})
    assert layers_with_weights(data) == {"ip", "conv/1x1"}
    assert layers_with_weights(b"") == frozenset()


def test_a_cut_file_is_seen():
    data = caffemodel({"ip": [ONE], "last": [ONE]})
    for end in range(len(data) - 30, len(data)):
        with pytest.raises(Truncated):
            layers_with_weights(data[:end])


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data):
    try:
        layers_with_weights(data)
    except Truncated:
        return


@pytest.mark.models
def test_a_real_one():
    data = next((model_dir(OPEN_NSFW_CAFFE) / "1").glob("*.caffemodel")).read_bytes()
    names = layers_with_weights(data)
    assert len(names) > 100
    assert {"conv_1", "fc_nsfw"} <= names
