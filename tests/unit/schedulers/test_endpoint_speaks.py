"""What a replica says of its own protocols, and that a restarted gateway still knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.replicas import Endpoint
from gateway.schedulers.process import ProcessId
from gateway.schedulers.records import ReplicaRecord, read_ready_file, read_record, write_record

SAID = {"http": "a:1", "grpc": "a:2", "control": "a:3", "status_http": "a:4"}


@pytest.mark.parametrize(
    ("speaks", "meant"),
    [
        (["tfs-rest", "tfs-grpc"], ("tfs-rest", "tfs-grpc")),
        (["v2-grpc", "tfs-rest", "morse"], ("tfs-rest", "v2-grpc")),
        ([], ()),
        (None, ()),
    ],
)
def test_a_ready_file_may_say_what_is_spoken(tmp_path: Path, speaks, meant) -> None:
    file = tmp_path / "ready.json"
    file.write_text(json.dumps(SAID | {"speaks": speaks}))
    assert read_ready_file(file) == Endpoint("a:1", "a:2", "a:3", "a:4", meant)
    file.write_text(json.dumps(SAID))
    assert read_ready_file(file) == Endpoint("a:1", "a:2", "a:3", "a:4")


def test_a_record_keeps_it(tmp_path: Path) -> None:
    record = ReplicaRecord(
        id="m-abcde",
        model="m",
        template="t",
        process=ProcessId(1, 2, "boot"),
        endpoint=Endpoint("a:1", "a:2", "a:3", speaks=("v2-rest",)),
        ports=(0, 0),
        gpus=(),
        restarts=0,
        started_at="",
        order=1,
        after=None,
    )
    for one in (record, replace(record, endpoint=None)):
        write_record(tmp_path, one)
        read = read_record(tmp_path / "m-abcde.json")
        assert read == one
        hash(read.endpoint)


def test_a_record_of_before_protocols_were_kept_is_read(tmp_path: Path) -> None:
    file = tmp_path / "m-abcde.json"
    old = {
        "id": "m-abcde", "model": "m", "template": "t",
        "process": {"pid": 1, "started_ticks": 2, "boot_id": "b"}, "endpoint": SAID,
        "ports": [0, 0],
        "gpus": [], "restarts": 0, "started_at": "", "order": 1, "after": None, "draining": False,
    }  # fmt: skip
    file.write_text(json.dumps(old))
    read = read_record(file)
    assert read is not None
    assert read.group == ""
    assert read.endpoint == Endpoint("a:1", "a:2", "a:3", "a:4")
