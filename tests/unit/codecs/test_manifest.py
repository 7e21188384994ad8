from __future__ import annotations

import json

import pytest

from gateway.codecs.manifest import (
    MAX_FILES,
    FileEntry,
    Manifest,
    Pointer,
    PointerEntry,
    build_manifest,
    build_pointer,
    check_path,
    digest,
    parse_manifest,
    parse_pointer,
)
from gateway.domain.errors import InvalidRequest

SHA = "0" * 64
GOOD = {"path": "model.onnx", "size": 3, "sha256": SHA}


def manifest(**changes) -> bytes:
    document = {"format": 1, "version": 3, "created_at": "2026-01-01T00:00:00Z", "files": [GOOD]}
    return json.dumps({**document, **changes}).encode()


def pointer(versions, **changes) -> bytes:
    return json.dumps({"format": 1, "versions": versions, **changes}).encode()


def test_a_manifest_reads_back_as_it_was_built():
    built = Manifest(3, "2026-01-01T00:00:00Z", (FileEntry("a/b", 0, SHA), FileEntry("c", 7, SHA)))
    assert parse_manifest(build_manifest(built)) == built
    assert built.total_bytes == 7


def test_a_pointer_reads_back_as_it_was_built():
    built = Pointer({0: PointerEntry(SHA, 1, "t"), 2**63 - 1: PointerEntry(digest(b"x"), 2, "u")})
    assert parse_pointer(build_pointer(built)) == built


def test_unknown_keys_are_passed_over():
    assert parse_manifest(manifest(signed_by="me")).version == 3


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 241,
        "/".join(["d" * 100] * 10),
        "..",
        "\udcff",
    ],
)
def test_paths_that_lead_elsewhere_or_cannot_be_stored_are_refused(path):
    with pytest.raises(InvalidRequest) as caught:
        check_path(path)
    assert caught.value.reason == "bad_source"


@pytest.mark.parametrize(
    "path", ["a", "variables/variables.data-00000-of-00001", "é/ü b.txt", "..a"]
)
def test_ordinary_paths_pass(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        manifest(format=2),
        manifest(format=True),
        manifest(version="3"),
        manifest(version=-1),
        manifest(version=2**63),
        manifest(version=1.0),
        manifest(files=[]),
        manifest(files={}),
        manifest(files=[1]),
        manifest(files=[{**GOOD, "path": 1}]),
        manifest(files=[{**GOOD, "path": "../../etc/passwd"}]),
        manifest(files=[{**GOOD, "path": "_MANIFEST.json"}]),
        manifest(files=[{**GOOD, "size": "3"}]),
        manifest(files=[{**GOOD, "size": -3}]),
        manifest(files=[{**GOOD, "size": 3.5}]),
        manifest(files=[{**GOOD, "size": True}]),
        manifest(files=[{**GOOD, "sha256": "0" * 63}]),
        manifest(files=[{**GOOD, "sha256": "G" * 64}]),
        manifest(files=[{**GOOD, "sha256": None}]),
        manifest(files=[GOOD, GOOD]),
        manifest(files=[{**GOOD, "path": "a"}, {**GOOD, "path": "a/b"}]),
        manifest(files=[{**GOOD, "path": f"f{i}"} for i in range(MAX_FILES + 1)]),
        b" " * (16 * 2**20 + 1),
        b"[" * 100_000,
    ],
    ids=range(28),
)
def test_hostile_manifests_are_refused(data):
    with pytest.raises(InvalidRequest) as caught:
        parse_manifest(data)
    assert caught.value.reason == "bad_source"
    assert len(caught.value.message) < 500


ENTRY = {"manifest_sha256": SHA, "total_bytes": 1, "published_at": "t"}


@pytest.mark.parametrize(
    "data",
    [
        pointer([]),
        pointer({"x": ENTRY}),
        pointer({"03": ENTRY}),
        pointer({"-1": ENTRY}),
        pointer({str(2**63): ENTRY}),
        pointer({"3": None}),
        pointer({"3": {**ENTRY, "manifest_sha256": 1}}),
        pointer({"3": {**ENTRY, "total_bytes": "1"}}),
        pointer({str(i): ENTRY for i in range(10_001)}),
        pointer({}, format=None),
        b" " * (4 * 2**20 + 1),
    ],
    ids=range(11),
)
def test_hostile_pointers_are_refused(data):
    with pytest.raises(InvalidRequest) as caught:
        parse_pointer(data)
    assert caught.value.reason == "bad_source"
