"""The cache of model servers, over local repositories: everything that needs no network."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.codecs.manifest import MANIFEST_NAME, POINTER_NAME, digest
from gateway.domain.errors import GatewayError, InvalidRequest, NotFound, Unavailable
from gateway.sources import publish
from servers.kit import cache as cache_module
from servers.kit import fetch_files
from servers.kit.fetch import VersionCache

GB = 10**9
ROOT = Path(__file__).parents[2]


def silent(_done, _total):
    pass


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph" * 100)
    (folder / "variables" / "data").write_bytes(os.urandom(300_000))
    (folder / "variables" / "index").write_bytes(b"i")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "repo").mkdir()
    return tmp_path / "repo"


@pytest.fixture
def cache(tmp_path):
    return VersionCache(tmp_path / "cache", GB)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(fetch_files, "PART_BYTES", 64 * 1024)
    monkeypatch.setattr(fetch_files, "RETRY_S", 0.001)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def fill(repository: Path, version: int | str, **files: bytes) -> Path:
    folder = repository / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


async def test_what_was_published_is_fetched_whole(model, repository, cache, small_parts):
    await publish(model, str(repository), 3)
    seen = []
    async with await cache.fetch(
        str(repository), 3, lambda done, total: seen.append((done, total))
    ) as lease:
        assert lease.path.name == "3"
        assert tree(lease.path) == tree(model)
    total = sum(len(data) for data in tree(model).values())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not list((cache._cache.root / "partial").iterdir())


async def test_a_plain_folder_is_fetched_too(repository, cache):
    fill(repository, "007", a=b"x" * 10, b=b"")
    async with await cache.fetch(f"file://{repository}", 7, silent) as lease:
        assert tree(lease.path) == {"a": b"x" * 10, "b": b""}


async def test_a_second_fetch_is_answered_from_the_disk(repository, cache):
    fill(repository, 1, a=b"x")
    first = await cache.fetch(str(repository), 1, silent)
    seen = []
    second = await cache.fetch(str(repository), 1, lambda *args: seen.append(args))
    assert first.path == second.path
    assert seen == [(1, 1)]
    first.release()
    first.release()
    second.release()


async def test_later_changes_of_the_source_do_not_reach_a_lease(repository, cache):
    source = fill(repository, 1, a=b"old")
    async with await cache.fetch(str(repository), 1, silent) as lease:
        (source / "a").write_bytes(b"new")
        assert (lease.path / "a").read_bytes() == b"old"
        async with await cache.fetch(str(repository), 1, silent) as other:
            assert (other.path / "a").read_bytes() == b"new"


async def test_list_versions_names_what_can_be_served(model, repository, cache):
    fill(repository, 2, a=b"x")
    fill(repository, 3, _PUBLISHING=b"", a=b"x")
    (repository / "4").mkdir()
    assert await cache.list_versions(str(repository)) == [2]
    await publish(model, str(repository), 9)
    assert await cache.list_versions(str(repository)) == [9]


@pytest.mark.parametrize("version", [5, 2**63 - 1])
async def test_an_unknown_version_is_not_found_and_says_which_there_are(repository, cache, version):
    fill(repository, 1, a=b"x")
    with pytest.raises(NotFound, match=r"there: 1") as caught:
        await cache.fetch(str(repository), version, silent)
    assert caught.value.reason == "version_not_found"


async def test_an_unfinished_version_is_not_taken(repository, cache):
    fill(repository, 1, _PUBLISHING=b"t", a=b"x")
    (repository / "2").mkdir()
    for version in (1, 2):
        with pytest.raises(Unavailable) as caught:
            await cache.fetch(str(repository), version, silent)
        assert caught.value.reason == "version_unfinished"


FILES = ["saved_model.pb", "variables/data", "variables/index", MANIFEST_NAME]


@pytest.mark.parametrize("harm", ["missing", "truncated", "corrupted", "emptied"])
@pytest.mark.parametrize("path", FILES)
async def test_no_damaged_file_of_a_published_version_is_ever_lent(
    model, repository, cache, small_parts, path, harm
):
    await publish(model, str(repository), 3)
    target = repository / "3" / path
    whole = target.read_bytes()
    if harm == "missing":
        target.unlink()
    elif harm == "truncated":
        target.write_bytes(whole[: len(whole) // 2])
    elif harm == "emptied":
        target.write_bytes(b"")
    else:
        middle = len(whole) // 2
        target.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(GatewayError) as caught:
        await cache.fetch(str(repository), 3, silent)
    assert path in caught.value.message
    assert not list((cache._cache.root / "entries").iterdir())
    target.write_bytes(whole)  # and once it is mended, it is taken
    async with await cache.fetch(str(repository), 3, silent) as lease:
        assert tree(lease.path) == tree(model)


async def test_a_damaged_file_is_named_with_both_digests(model, repository, cache, small_parts):
    await publish(model, str(repository), 3)
    (repository / "3" / "variables" / "index").write_bytes(b"j")
    with pytest.raises(
        Unavailable, match=r"variables/index.*sha256 is [0-9a-f]{64}.*says"
    ) as caught:
        await cache.fetch(str(repository), 3, silent)
    assert caught.value.reason == "file_corrupt"


async def test_a_manifest_that_leads_out_of_the_folder_is_refused(
    model, repository, cache, tmp_path
):
    await publish(model, str(repository), 3)
    manifest = json.loads((repository / "3" / MANIFEST_NAME).read_text())
    manifest["files"][0]["path"] = "../../../escaped"
    data = json.dumps(manifest).encode()
    (repository / "3" / MANIFEST_NAME).write_bytes(data)
    pointer = json.loads((repository / POINTER_NAME).read_text())
    pointer["versions"]["3"]["manifest_sha256"] = digest(data)
    (repository / POINTER_NAME).write_text(json.dumps(pointer))
    with pytest.raises(InvalidRequest):
        await cache.fetch(str(repository), 3, silent)
    assert not list(tmp_path.rglob("escaped"))


async def test_a_folder_that_changes_during_the_fetch_is_not_taken(repository, cache, small_parts):
    source = fill(repository, 1, a=b"x" * 100_000, b=b"y")
    grown = []

    def progress(done, _total):
        if done and not grown:
            grown.append(True)
            (source / "c").write_bytes(b"late")

    with pytest.raises(Unavailable) as caught:
        await cache.fetch(str(repository), 1, progress)
    assert caught.value.reason == "source_changing"
    assert not list((cache._cache.root / "entries").iterdir())
    async with await cache.fetch(str(repository), 1, silent) as lease:
        assert set(tree(lease.path)) == {"a", "b", "c"}


async def _cancelled_after(cache: VersionCache, repository: Path, count: int) -> None:
    """Start to fetch version 1 and cancel once `count` bytes have come."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            cache.fetch(str(repository), 1, lambda done, _: done > count and task.cancel())
        )
    assert task.cancelled()


async def test_a_cancelled_fetch_goes_on_where_it_stopped(repository, cache, small_parts):
    await publish(_big(repository.parent), str(repository), 1)
    half = 20 * 64 * 1024
    await _cancelled_after(cache, repository, half)
    started = []
    async with await cache.fetch(str(repository), 1, lambda done, _: started.append(done)) as lease:
        assert started[0] >= half - 4 * 64 * 1024
        assert tree(lease.path) == tree(repository.parent / "big")


async def test_resumed_parts_that_were_damaged_on_the_disk_are_fetched_again(
    repository, cache, small_parts
):
    await publish(_big(repository.parent), str(repository), 1)
    await _cancelled_after(cache, repository, 10**6)
    (partial,) = (cache._cache.root / "partial").glob("*/1/weights")
    with partial.open("r+b") as file:
        file.write(b"garbage")
    async with await cache.fetch(str(repository), 1, silent) as lease:
        assert tree(lease.path) == tree(repository.parent / "big")


def _big(parent: Path) -> Path:
    folder = parent / "big"
    folder.mkdir()
    (folder / "weights").write_bytes(os.urandom(40 * 64 * 1024))
    return folder


async def test_too_little_disk_is_said_before_anything_is_written(repository, cache, monkeypatch):
    fill(repository, 1, a=b"x" * 1_000_000)
    monkeypatch.setattr(cache_module.CacheFolder, "free_bytes", lambda self: 500_000)
    with pytest.raises(Unavailable, match=r"needs 1\.0 MB more and 0\.5 MB are free") as caught:
        await cache.fetch(str(repository), 1, silent)
    assert caught.value.reason == "disk_full"
    assert not list((cache._cache.root / "partial").iterdir())


async def test_a_disk_that_fills_up_during_the_fetch(repository, cache, monkeypatch):
    fill(repository, 1, a=b"x" * 1_000_000)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_files.os, "pwrite", full)
    with pytest.raises(Unavailable, match="became full") as caught:
        await cache.fetch(str(repository), 1, silent)
    assert caught.value.reason == "disk_full"
    assert not list((cache._cache.root / "partial").iterdir())


async def test_the_least_recently_used_version_makes_room(repository, tmp_path):
    cache = VersionCache(tmp_path / "cache", 250)
    for version in (1, 2, 3):
        fill(repository, version, a=bytes([version]) * 100)
    (await cache.fetch(str(repository), 1, silent)).release()
    (await cache.fetch(str(repository), 2, silent)).release()
    stamp = 1_000_000
    for version in (2, 1):  # 2 was used before 1, whatever the clock's grain
        (entry,) = (tmp_path / "cache" / "entries").glob(f"*-{version}-*")
        os.utime(entry / "entry.json", (stamp, stamp))
        stamp += 10
    (await cache.fetch(str(repository), 3, silent)).release()
    assert _kept(tmp_path) == ["1", "3"]


async def test_leased_versions_are_never_evicted(repository, tmp_path):
    cache = VersionCache(tmp_path / "cache", 250)
    for version in (1, 2, 3):
        fill(repository, version, a=bytes([version]) * 100)
    one = await cache.fetch(str(repository), 1, silent)
    two = await cache.fetch(str(repository), 2, silent)
    with pytest.raises(Unavailable, match="--cache-bytes") as caught:
        await cache.fetch(str(repository), 3, silent)
    assert caught.value.reason == "cache_full"
    assert (one.path / "a").exists()
    two.release()
    three = await cache.fetch(str(repository), 3, silent)
    assert _kept(tmp_path) == ["1", "3"]
    one.release()
    three.release()


async def test_a_version_larger_than_the_cache_is_refused(repository, tmp_path):
    cache = VersionCache(tmp_path / "cache", 50)
    fill(repository, 1, a=b"x" * 100)
    with pytest.raises(Unavailable) as caught:
        await cache.fetch(str(repository), 1, silent)
    assert caught.value.reason == "cache_full"


async def test_without_a_bound_everything_is_kept(repository, tmp_path):
    cache = VersionCache(tmp_path / "cache", 0)
    for version in (1, 2, 3):
        fill(repository, version, a=b"x" * 100)
        (await cache.fetch(str(repository), version, silent)).release()
    assert _kept(tmp_path) == ["1", "2", "3"]


def _kept(tmp_path: Path) -> list[str]:
    return sorted(path.name.split("-")[1] for path in (tmp_path / "cache" / "entries").iterdir())


async def test_an_entry_damaged_on_the_disk_is_fetched_again(repository, cache):
    fill(repository, 1, a=b"xyz")
    lease = await cache.fetch(str(repository), 1, silent)
    lease.release()
    (lease.path / "a").write_bytes(b"")
    async with await cache.fetch(str(repository), 1, silent) as again:
        assert (again.path / "a").read_bytes() == b"xyz"


FETCHER = """
import asyncio, sys
from pathlib import Path
from servers.kit import fetch_files
from servers.kit.fetch import VersionCache
fetch_files.PART_BYTES = 64 * 1024
async def main():
    lease = await VersionCache(Path(sys.argv[1]), 0).fetch(sys.argv[2], 1, lambda d, t: None)
    print(lease.path, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def _fetcher(tmp_path: Path, repository: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, str(tmp_path / "cache"), str(repository)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
async def test_processes_share_one_fetch_and_a_killed_one_leaves_no_lease(repository, tmp_path):
    await publish(_big(tmp_path), str(repository), 1)
    others = [_fetcher(tmp_path, repository) for _ in range(2)]
    try:
        lines = [await asyncio.to_thread(process.stdout.readline) for process in others]
        assert lines[0] == lines[1]
        assert len(_kept(tmp_path)) == 1
        folder = cache_module.CacheFolder(tmp_path / "cache", 0)
        (entry,) = (tmp_path / "cache" / "entries").iterdir()
        assert not folder.discard_entry(entry.name)
        for process in others:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert folder.discard_entry(entry.name)
    finally:
        for process in others:
            process.kill()
            process.wait()
            process.stdout.close()


async def test_a_waiter_reports_the_others_progress_and_gets_the_same_folder(
    repository, cache, small_parts
):
    await publish(_big(repository.parent), str(repository), 1)
    other = VersionCache(cache._cache.root, GB)
    gate = asyncio.Event()
    seen: list[int] = []
    original = fetch_files.Download._verify

    async def held(self, indexes):
        await gate.wait()
        return await original(self, indexes)

    def waiting(done, total):
        seen.append(done)
        if done == total:
            gate.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_files.Download, "_verify", held)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(cache.fetch(str(repository), 1, silent))
            await asyncio.sleep(0.05)
            second = group.create_task(other.fetch(str(repository), 1, waiting))
    assert first.result().path == second.result().path
    assert len(seen) >= 2
    first.result().release()
    second.result().release()
