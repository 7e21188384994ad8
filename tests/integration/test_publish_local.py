"""`gateway publish` into a local folder: what it refuses, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from gateway.codecs.manifest import MANIFEST_NAME, MARKER_NAME, POINTER_NAME
from gateway.domain.errors import Conflict, InvalidRequest
from gateway.sources import ObjectSource, PublishSettings, publish
from gateway.sources.publish import _Publish
from gateway.storage import Folder
from servers.kit.fetch import VersionCache

QUICK = PublishSettings(takeover_wait_s=0.02)


class Clock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "sub" / "weights").write_bytes(b"w" * 1000)
    return folder


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repo"


async def test_documents_are_as_the_design_says(model, repository):
    done = []
    published = await publish(model, str(repository), 3, lambda *args: done.append(args))
    manifest = json.loads((repository / "3" / MANIFEST_NAME).read_text())
    pointer = json.loads((repository / POINTER_NAME).read_text())
    assert manifest["format"] == pointer["format"] == 1
    assert manifest["version"] == 3
    assert [file["path"] for file in manifest["files"]] == ["model.onnx", "sub/weights"]
    assert [file["size"] for file in manifest["files"]] == [5, 1000]
    assert pointer["versions"]["3"] == {
        "manifest_sha256": published.fingerprint,
        "total_bytes": 1005,
        "published_at": manifest["created_at"],
    }
    assert not (repository / "3" / MARKER_NAME).exists()
    assert done[0] == (0, 1005)
    assert done[-1] == (1005, 1005)


async def test_the_next_number_is_above_all_there_are(model, repository):
    (repository / "00041").mkdir(parents=True)
    (repository / "00041" / "x").write_bytes(b"x")
    warnings: list[str] = []
    assert (await publish(model, str(repository), warn=warnings.append)).version == 42
    assert "41" in warnings[0]
    assert (await publish(model, str(repository), warn=warnings.append)).version == 43


async def test_a_published_version_never_changes(model, repository):
    await publish(model, str(repository), 3)
    with pytest.raises(Conflict) as caught:
        await publish(model, str(repository), 3)
    assert caught.value.reason == "version_exists"


async def test_a_version_that_somebody_else_uploaded_is_not_overwritten(model, repository):
    (repository / "3").mkdir(parents=True)
    (repository / "3" / "model.onnx").write_bytes(b"theirs")
    with pytest.raises(Conflict):
        await publish(model, str(repository), 3)
    assert (repository / "3" / "model.onnx").read_bytes() == b"theirs"


@pytest.mark.parametrize("version", [-1, 2**63])
async def test_a_number_that_is_no_version_is_refused(model, repository, version):
    with pytest.raises(InvalidRequest):
        await publish(model, str(repository), version)


async def test_folders_that_cannot_be_published(tmp_path, repository):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to("/etc/passwd")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "link").symlink_to("nowhere")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo" / "pipe")
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "weights#1").write_text("x")
    names = ("nowhere", "empty", "file", "out", "dangling", "loop", "fifo", "staging")
    for name in names:
        with pytest.raises(InvalidRequest) as caught:
            await publish(tmp_path / name, str(repository))
        assert caught.value.reason == "bad_model", name
    assert not repository.exists()


async def test_links_inside_the_folder_are_copies(model, repository):
    (model / "again").symlink_to(model / "model.onnx")
    await publish(model, str(repository), 1)
    assert (repository / "1" / "again").read_bytes() == b"graph"
    assert not (repository / "1" / "again").is_symlink()


async def test_an_unknown_kind_of_model_is_only_warned_of(tmp_path, repository):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "weights.bin").write_text("x")
    warnings: list[str] = []
    await publish(tmp_path / "odd", str(repository), 1, warn=warnings.append)
    assert "custom backend" in warnings[0]


STEPS = ["_upload", "_check_landed", "_check_claim"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_serves_nothing_and_the_number_can_be_published_again(
    model, repository, tmp_path, monkeypatch, step
):
    class Crash(BaseException):
        pass

    original = getattr(_Publish, step)

    async def crash(self, *args):
        await original(self, *args)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(_Publish, step, crash)
        with pytest.raises(Crash):
            await publish(model, str(repository), 3)
    (model / "sub" / "weights").unlink()  # the second try has other files
    await _nothing_serves(repository, tmp_path)
    await publish(model, str(repository), 3, settings=QUICK)
    async with await VersionCache(tmp_path / "c", 0).fetch(str(repository), 3, _silent) as lease:
        assert [path.name for path in lease.path.iterdir()] == ["model.onnx"]
    assert not (repository / "3" / "sub" / "weights").exists()


async def test_a_crash_before_the_pointer_serves_nothing(model, repository, tmp_path, monkeypatch):
    async def crash(*_args):
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["gateway.sources.publish"], "add_version", crash)
        with pytest.raises(KeyError):
            await publish(model, str(repository), 3)
    assert (repository / "3" / MANIFEST_NAME).exists()
    await _nothing_serves(repository, tmp_path)
    await publish(model, str(repository), 3, settings=QUICK)
    assert (await ObjectSource(Clock()).look(str(repository), None)).versions[3].settled


async def test_a_crash_after_the_pointer_has_published(model, repository, tmp_path, monkeypatch):
    async def crash(self, path):
        raise KeyError(path)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", crash)
        with pytest.raises(KeyError):
            await publish(model, str(repository), 3)
    assert (await ObjectSource(Clock()).look(str(repository), None)).versions[3].settled
    (await VersionCache(tmp_path / "c", 0).fetch(str(repository), 3, _silent)).release()


async def _nothing_serves(repository: Path, tmp_path: Path) -> None:
    listing = await ObjectSource(Clock()).look(str(repository), None)
    assert not any(seen.settled for seen in listing.versions.values())
    assert await VersionCache(tmp_path / "c", 0).list_versions(str(repository)) == []


def _silent(_done: int, _total: int) -> None: ...


async def test_publishers_at_once_all_survive(model, repository):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(publish(model, str(repository))) for _ in range(8)]
    assert sorted(task.result().version for task in tasks) == list(range(1, 9))
    listing = await ObjectSource(Clock()).look(str(repository), None)
    assert list(listing.versions) == list(range(1, 9))


async def test_a_number_published_after_it_was_chosen_is_left_alone(
    model, tmp_path, repository, monkeypatch
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").write_bytes(b"other")
    original = _Publish._listed
    first = []

    async def slow(self):
        listed = await original(self)
        if not first:  # between our listing and our claim another publishes from start to end
            first.append(True)
            await publish(other, str(repository))
        return listed

    monkeypatch.setattr(_Publish, "_listed", slow)
    assert (await publish(model, str(repository))).version == 2
    assert (repository / "1" / "model.onnx").read_bytes() == b"other"
    assert not (repository / "1" / MARKER_NAME).exists()


async def test_two_publishers_of_one_number_end_with_one_whole_version(model, tmp_path, repository):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").write_bytes(b"other")
    results = []

    async def one(folder: Path) -> None:
        try:
            results.append(await publish(folder, str(repository), 3, settings=QUICK))
        except Conflict as error:
            results.append(error)

    async with asyncio.TaskGroup() as group:
        group.create_task(one(model))
        group.create_task(one(other))
    listing = await ObjectSource(Clock()).look(str(repository), None)
    won = [result for result in results if not isinstance(result, Conflict)]
    assert len(won) <= 1
    assert list(listing.versions) == [3] * len(won)
    if won:
        (await VersionCache(tmp_path / "c", 0).fetch(str(repository), 3, _silent)).release()


async def test_a_file_that_changes_while_it_is_published_is_refused(model, repository):
    (model / "sub" / "weights").write_bytes(b"w" * 100_000)

    def grow(_done: int, _total: int) -> None:
        with (model / "sub" / "weights").open("ab") as file:
            file.write(b"more")

    with pytest.raises(InvalidRequest, match="changed while") as caught:
        await publish(model, str(repository), 1, grow, settings=PublishSettings(part_bytes=10_000))
    assert caught.value.reason == "bad_model"
    assert not (repository / POINTER_NAME).exists()
