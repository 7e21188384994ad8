"""What every ports.VersionSource promises, on a local folder and on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from gateway.domain.errors import InvalidRequest, NotFound
from gateway.sources import ObjectSource, SourceSettings, publish
from tests.parts.need import need
from tests.parts.s3 import INSTALL, S3, s3_server, weed

SETTLE_S = 10.0


class HandClock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class FileRepository:
    """A repository as some other tool fills it: files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.uri = f"file://{root}"
        self.missing = f"file://{root}-nowhere"

    def put(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def delete(self, path: str) -> None:
        (self.root / path).unlink()


class S3Repository:
    """The same in a bucket."""

    def __init__(self, s3: S3, name: str) -> None:
        self.uri = f"s3://{s3.bucket}/{name}"
        self.missing = f"s3://no-such-bucket/{name}"
        self._store = S3Store(
            s3.bucket,
            prefix=name,
            endpoint=s3.endpoint,
            region="us-east-1",
            access_key_id=s3.rw.key,
            secret_access_key=s3.rw.secret,
            client_options={"allow_http": True},
        )

    def put(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data)

    def delete(self, path: str) -> None:
        obstore.delete(self._store, path)


@pytest.fixture(scope="module")
def s3():
    need(weed() is not None, INSTALL)
    with s3_server() as server:
        yield server


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def repository(request, tmp_path, monkeypatch):
    if request.param == "file":
        return FileRepository(tmp_path / "resnet")
    server = request.getfixturevalue("s3")
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    return S3Repository(server, tmp_path.name)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def source(clock):
    return ObjectSource(clock, SourceSettings(settle_s=SETTLE_S))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "data").write_bytes(b"weights" * 1000)
    return folder


async def test_what_does_not_exist_is_not_found(repository, source):
    with pytest.raises(NotFound) as caught:
        await source.look(repository.missing, None)
    assert caught.value.reason == "source_not_found"


async def test_an_empty_repository_has_no_versions(repository, source):
    repository.put("README.md", b"hello")
    listing = await source.look(repository.uri, None)
    assert dict(listing.versions) == {}


async def test_a_published_version_counts_at_once(repository, source, model):
    published = await publish(model, repository.uri)
    listing = await source.look(repository.uri, None)
    assert published.version == 1
    assert list(listing.versions) == [1]
    seen = listing.versions[1]
    assert (seen.settled, seen.has_manifest) == (True, True)
    assert seen.fingerprint == published.fingerprint
    assert seen.total_bytes == published.total_bytes == 7005
    assert listing.validator


async def test_nothing_new_is_the_very_same_listing(repository, source, model):
    await publish(model, repository.uri)
    first = await source.look(repository.uri, None)
    assert await source.look(repository.uri, first) is first


async def test_the_next_published_version_is_seen(repository, source, model):
    await publish(model, repository.uri, 7)
    first = await source.look(repository.uri, None)
    assert (await publish(model, repository.uri)).version == 8
    second = await source.look(repository.uri, first)
    assert list(second.versions) == [7, 8]
    assert second.versions[7] == first.versions[7]


async def test_a_listed_version_counts_once_it_stood_still(repository, source, clock):
    repository.put("3/model.onnx", b"x" * 10)
    first = await source.look(repository.uri, None)
    assert not first.versions[3].settled
    assert first.versions[3].files == ("model.onnx",)
    clock.time += SETTLE_S - 0.1
    assert await source.look(repository.uri, first) is first
    clock.time += 0.2
    second = await source.look(repository.uri, first)
    assert second.versions[3].settled
    assert not second.versions[3].has_manifest
    assert await source.look(repository.uri, second) is second


async def test_every_further_file_starts_the_settle_time_again(repository, source, clock):
    listing = None
    for name in ("a", "b", "c"):
        repository.put(f"3/{name}", b"x")
        clock.time += SETTLE_S - 1
        listing = await source.look(repository.uri, listing)
        assert not listing.versions[3].settled
    clock.time += SETTLE_S
    assert (await source.look(repository.uri, listing)).versions[3].settled


async def test_a_file_replaced_by_one_of_the_same_size_unsettles(repository, source, clock):
    repository.put("3/model.onnx", b"one")
    await source.look(repository.uri, None)
    clock.time += SETTLE_S
    settled = await source.look(repository.uri, None)
    repository.put("3/model.onnx", b"two")
    changed = await source.look(repository.uri, settled)
    assert settled.versions[3].settled
    assert not changed.versions[3].settled
    assert changed.versions[3].fingerprint != settled.versions[3].fingerprint


async def test_a_folder_that_is_being_published_to_never_settles(repository, source, clock):
    repository.put("3/_PUBLISHING", b"token")
    repository.put("4/_PUBLISHING", b"token")
    repository.put("4/model.onnx", b"x")
    await source.look(repository.uri, None)
    clock.time += 100 * SETTLE_S
    listing = await source.look(repository.uri, None)
    assert [v.settled for v in listing.versions.values()] == [False, False]


async def test_a_version_that_vanishes_is_gone(repository, source):
    repository.put("3/model.onnx", b"x")
    repository.put("4/model.onnx", b"x")
    first = await source.look(repository.uri, None)
    repository.delete("4/model.onnx")
    second = await source.look(repository.uri, first)
    assert [v for v, seen in second.versions.items() if seen.files] == [3]


async def test_versions_are_integers_and_leading_zeros_do_not_matter(repository, source):
    for name in ("0000123", "7", "latest", "v1", "-1", "1.0", "9223372036854775808", "9" * 50):
        repository.put(f"{name}/model.onnx", b"x")
    repository.put("5", b"a file, not a folder")
    listing = await source.look(repository.uri, None)
    assert list(listing.versions) == [7, 123]
    assert await source.files(repository.uri, 123) == ["model.onnx"]


async def test_files_of_a_published_and_of_a_listed_version(repository, source, model):
    repository.put("1/model.onnx", b"x")
    assert await source.files(repository.uri, 1) == ["model.onnx"]
    await publish(model, repository.uri, 2)
    assert await source.files(repository.uri, 2) == ["saved_model.pb", "variables/data"]


async def test_files_of_an_unknown_version_are_not_found(repository, source, model):
    repository.put("1/model.onnx", b"x")
    with pytest.raises(NotFound) as caught:
        await source.files(repository.uri, 2)
    assert caught.value.reason == "version_not_found"
    await publish(model, repository.uri, 5)
    with pytest.raises(NotFound):
        await source.files(repository.uri, 1)


@pytest.mark.parametrize(
    "pointer",
    [b"", b"not json", b'{"format": 9, "versions": {}}', b'{"format": 1, "versions": {"x": {}}}'],
)
async def test_a_pointer_that_is_none_is_refused_with_its_place(repository, source, pointer):
    repository.put("_VERSIONS.json", pointer)
    with pytest.raises(InvalidRequest) as caught:
        await source.look(repository.uri, None)
    assert caught.value.reason == "bad_source"
    assert repository.uri in caught.value.message


async def test_a_huge_pointer_is_refused_unread(repository, source):
    repository.put("_VERSIONS.json", b" " * (5 * 2**20))
    with pytest.raises(InvalidRequest, match="bytes"):
        await source.look(repository.uri, None)


async def test_after_a_bad_pointer_was_mended_it_is_read(repository, source):
    repository.put("_VERSIONS.json", json.dumps({"format": 1, "versions": {}}).encode())
    first = await source.look(repository.uri, None)
    repository.put("_VERSIONS.json", b"broken")
    with pytest.raises(InvalidRequest):
        await source.look(repository.uri, first)
    repository.put("_VERSIONS.json", json.dumps({"format": 1, "versions": {}}).encode())
    assert dict((await source.look(repository.uri, first)).versions) == {}


async def test_without_its_pointer_a_published_repository_is_listed(
    repository, source, model, clock
):
    await publish(model, repository.uri, 3)
    first = await source.look(repository.uri, None)
    repository.delete("_VERSIONS.json")
    second = await source.look(repository.uri, first)
    assert list(second.versions) == [3]
    assert second.versions[3].has_manifest
    assert not second.versions[3].settled
    assert not second.validator
