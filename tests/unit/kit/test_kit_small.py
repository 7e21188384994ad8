"""Small pure parts of the kit: sizes, gzip, buckets, rows that depend on each other."""

from __future__ import annotations

import argparse
import gzip

import numpy as np
import pytest

from gateway.domain.errors import InvalidRequest, TooLarge
from servers.kit.bodies import gunzip
from servers.kit.flags import parser, settings, size
from servers.kit.metrics import Metrics
from servers.kit.rowcheck import why_not_rowwise
from servers.kit.rows import offered
from servers.kit.server import PortTaken, listen
from servers.kit.versions import BySource, LocalFolders, local_path
from servers.onnx.batch_axis import batch_axis
from tests.parts.fake_runtime import PREDICT, FakeModel


@pytest.mark.parametrize(
    ("text", "value"),
    [("512", 512), ("1k", 1024), ("128MiB", 128 << 20), ("1.5 GB", 3 << 29), ("2T", 2 << 40)],
)
def test_sizes(text, value):
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "1e400"])
def test_what_is_no_size_says_how_to_write_one(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write 128MiB"):
        size(text)


def test_flags_become_settings():
    args = parser("onnx").parse_args(
        ["--model", "a=s3://b/a=c", "--batch-delay-ms", "5", "--threads", "3", "--drain-s", "1"]
    )
    made = settings(args)
    assert made.models == (("a", "s3://b/a=c"),)
    assert made.batch.delay_s == 0.005
    assert (made.threads, made.drain_s, made.load.drain_s) == (3, 1.0, 1.0)


def test_gzip_of_several_members_is_one_body():
    assert gunzip(gzip.compress(b"ab") + gzip.compress(b"cd"), 4) == b"abcd"
    with pytest.raises(TooLarge):
        gunzip(gzip.compress(b"ab") + gzip.compress(b"cde"), 4)
    with pytest.raises(InvalidRequest, match="too early"):
        gunzip(gzip.compress(b"abcd")[:-1], 4)


def test_metrics_fall_into_tensorflow_servings_buckets():
    metrics = Metrics()
    for seconds in (5e-6, 15e-6, 1e9):
        metrics.observe('a"b', "Predict", "REST", "OK", seconds)
    page = metrics.page().decode()
    labels = 'model_name="a\\"b",API="Predict",entrypoint="REST"'
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="10"}} 1\n' in page
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="18"}} 2\n' in page
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}} 3\n' in page
    metrics.forget(['a"b'])
    assert "a" not in "".join(metrics.page().decode().split()[3:4])


class Mixing(FakeModel):
    def __init__(self, **more):
        super().__init__(**more)
        self.signatures = {"serving_default": PREDICT}

    def run(self, signature, inputs, outputs):
        answer = super().run(signature, inputs, outputs)["y"]
        return {"y": np.cumsum(answer, axis=0)}


def test_rows_that_mix_are_found_out():
    plain = FakeModel()
    plain.signatures = {"serving_default": PREDICT}
    assert why_not_rowwise(plain) == ""
    assert "depends on the rows beside it" in why_not_rowwise(Mixing())
    assert "depends on the rows beside it" in why_not_rowwise(Mixing(fixed_batch=3))


def test_a_fixed_batch_is_offered_as_any_number_of_rows():
    model = FakeModel(fixed_batch=4)
    assert offered(model).signatures["serving_default"].inputs["x"].shape == (-1, 2)
    kept = offered(model, "rows mix")
    assert (kept.fixed_batch, kept.batchable) == (None, False)


@pytest.mark.parametrize(
    ("shapes", "inputs", "found"),
    [
        ([["N", 3], ["N", 2]], 1, (True, None)),
        ([[None, 3], ["unk__1", 2]], 1, (True, None)),
        ([["N", 3], ["M", 3], ["N"]], 2, (False, None)),
        ([["N", 3], [], ["N"]], 2, (False, None)),
        ([["N", 3], [2, "N", 8], ["N"]], 2, (False, None)),
        ([[4, 3], [4]], 1, (False, 4)),
        ([[1, 3], [1]], 1, (False, 1)),
        ([[4, 3], [1]], 1, (False, None)),
        ([["N"]], 0, (False, None)),
    ],
)
def test_the_batch_axis_of_a_graph(shapes, inputs, found):
    assert batch_axis(shapes, inputs) == found


@pytest.mark.parametrize(
    ("uri", "path"),
    [("/a/b", "/a/b"), ("file:///a%20b", "/a b"), ("s3://a/b", None), ("file://host/a", None)],
)
def test_which_sources_are_folders(uri, path):
    assert (None if (found := local_path(uri)) is None else str(found)) == path


async def test_versions_are_folders_with_numbers(tmp_path):
    for name in ("1", "0002", "x", "-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert await LocalFolders().list_versions(str(tmp_path)) == [1, 2]
    lease = await LocalFolders().fetch(str(tmp_path), 2, lambda had, total: None)
    assert lease.path.name == "0002"
    with pytest.raises(Exception, match="Version 5 is not in"):
        await LocalFolders().fetch(str(tmp_path), 5, lambda had, total: None)
    by_source = BySource(lambda: LocalFolders())
    with pytest.raises(InvalidRequest, match="not a folder of this machine"):
        await by_source.list_versions("s3://bucket/m")


def test_a_taken_port_is_said():
    held = listen("127.0.0.1:0", "--http")
    with held, pytest.raises(PortTaken, match="choose another address with --http"):
        listen(f"127.0.0.1:{held.getsockname()[1]}", "--http")
