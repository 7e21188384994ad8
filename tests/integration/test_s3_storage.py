"""Publish, look and fetch against a real S3 server, through a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from gateway.domain.errors import Forbidden, GatewayError, NotFound, Unavailable
from gateway.sources import ObjectSource, PublishSettings, SourceSettings, publish
from gateway.storage import Folder, StorageSettings, repository
from gateway.storage.repository import list_versions
from servers.kit import fetch_files
from servers.kit.fetch import VersionCache
from tests.parts.need import need
from tests.parts.s3 import INSTALL, Credentials, s3_server, weed
from tests.parts.s3_proxy import proxy_to

pytestmark = pytest.mark.s3

MB = 2**20


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture(scope="module")
def s3():
    need(weed() is not None, INSTALL)
    with s3_server() as server:
        yield server


@pytest.fixture
def use(s3, monkeypatch):
    """Set the environment for one identity and endpoint."""

    def apply(who: Credentials | None = None, endpoint: str | None = None) -> None:
        for name, value in s3.env(who, endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ALLOW_HTTP")  # an http:// endpoint is enough

    apply()
    return apply


@pytest.fixture
def uri(s3, tmp_path):
    return f"s3://{s3.bucket}/{tmp_path.name}"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "sub" / "weights").write_bytes(os.urandom(3 * MB))
    return folder


@pytest.fixture
def cache(tmp_path):
    return VersionCache(tmp_path / "cache", 0)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(fetch_files, "PART_BYTES", MB // 4)
    monkeypatch.setattr(fetch_files, "RETRY_S", 0.01)


def silent(_done, _total):
    pass


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def test_a_version_goes_up_in_parts_and_comes_down_in_ranges(use, uri, tmp_path, cache):
    big = tmp_path / "big"
    big.mkdir()
    (big / "model.onnx").write_bytes(os.urandom(21 * MB + 17))
    seen = []
    await publish(
        big,
        uri,
        progress=lambda *args: seen.append(args),
        settings=PublishSettings(part_bytes=5 * MB),
    )
    assert seen[-1] == (21 * MB + 17, 21 * MB + 17)
    async with await cache.fetch(uri, 1, silent) as lease:
        assert tree(lease.path) == tree(big)


async def test_a_look_at_a_published_repository_is_one_conditional_get(use, s3, uri, model):
    await publish(model, uri)
    async with proxy_to(s3.endpoint) as proxy:
        use(endpoint=proxy.endpoint)
        source = ObjectSource(Clock())
        first = await source.look(uri, None)
        assert len(proxy.take()) == 1
        proxy.statuses.clear()
        for _ in range(3):
            assert await source.look(uri, first) is first
        assert [line.rpartition("/")[2] for line in proxy.take()] == ["_VERSIONS.json"] * 3
        assert proxy.statuses == [304, 304, 304]


async def test_a_small_listed_repository_costs_one_listing(use, s3, uri, model):
    folder = Folder(uri)
    for version in range(5):
        await folder.put(f"{version}/model.onnx", b"x")
    async with proxy_to(s3.endpoint) as proxy:
        use(endpoint=proxy.endpoint)
        await ObjectSource(Clock()).look(uri, None)
        lines = proxy.take()
        assert len(lines) == 2
        assert "list-type=2" in lines[1]


async def test_a_huge_neighbour_does_not_hide_the_versions(use, uri, monkeypatch):
    monkeypatch.setattr(repository, "FLAT_LIMIT", 20)
    folder = Folder(uri)
    for number in range(30):
        await folder.put(f"logs/{number}", b"x")
    for version in ("2", "0003"):
        await folder.put(f"{version}/model.onnx", b"x")
    found = await list_versions(folder)
    assert {version: entry.name for version, entry in found.items()} == {2: "2", 3: "0003"}


async def test_folder_markers_of_consoles_are_no_files(use, s3, uri):
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.rw.key,
        aws_secret_access_key=s3.rw.secret,
        region_name="us-east-1",
    )
    key = uri.removeprefix(f"s3://{s3.bucket}/")
    for name in ("", "3/", "3/variables/", "3/variables/data", "3/saved_model.pb"):
        client.put_object(
            Bucket=s3.bucket, Key=f"{key}/{name}", Body=b"x" if name[-1:] != "/" and name else b""
        )
    client.close()
    found = await list_versions(Folder(uri))
    assert [entry.path for entry in found[3].files] == ["saved_model.pb", "variables/data"]


async def test_publishers_at_once_all_survive(use, uri, model):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(publish(model, uri)) for _ in range(5)]
    assert sorted(task.result().version for task in tasks) == [1, 2, 3, 4, 5]
    listing = await ObjectSource(Clock()).look(uri, None)
    assert list(listing.versions) == [1, 2, 3, 4, 5]


async def test_a_read_only_key_reads_and_cannot_publish(use, s3, uri, model, cache):
    await publish(model, uri)
    use(s3.ro)
    async with await cache.fetch(uri, 1, silent) as lease:
        assert tree(lease.path) == tree(model)
    with pytest.raises(Forbidden, match="refused to write") as caught:
        await publish(model, uri)
    assert caught.value.reason == "source_denied"


@pytest.mark.parametrize("part", ["key", "secret"])
async def test_wrong_credentials_are_said_within_seconds(use, s3, uri, model, part, tmp_path):
    await publish(model, uri)
    use(Credentials("nobody", s3.rw.secret) if part == "key" else Credentials(s3.rw.key, "wrong"))
    async with asyncio.timeout(20):
        with pytest.raises(Forbidden) as caught:
            await ObjectSource(Clock()).look(uri, None)
        assert caught.value.reason == "source_denied"
        assert "AWS_SECRET_ACCESS_KEY" in caught.value.message
        assert s3.rw.secret not in caught.value.message
        with pytest.raises(Forbidden):
            await VersionCache(tmp_path / "c2", 0).fetch(uri, 1, silent)
        with pytest.raises(Forbidden):
            await publish(model, uri)


async def test_a_missing_bucket_is_not_found_by_all(use, uri, model, cache):
    missing = "s3://no-such-bucket/resnet"
    for deed in (
        ObjectSource(Clock()).look(missing, None),
        cache.fetch(missing, 1, silent),
        cache.list_versions(missing),
        publish(model, missing),
    ):
        with pytest.raises(NotFound) as caught:
            await deed
        assert caught.value.reason == "source_not_found"


async def test_a_dead_endpoint_is_said_within_seconds(use, uri):
    use(endpoint="http://127.0.0.1:9")
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="did not answer") as caught:
            await ObjectSource(Clock()).look(uri, None)
    assert caught.value.reason == "source_unreachable"


async def test_a_silent_endpoint_is_given_up(use, s3, uri):
    async with proxy_to(s3.endpoint) as proxy:
        proxy.silent = True
        use(endpoint=proxy.endpoint)
        source = ObjectSource(Clock(), SourceSettings(storage=StorageSettings(look_timeout_s=0.5)))
        with pytest.raises(Unavailable, match=r"0\.5 s") as caught:
            await source.look(uri, None)
        assert caught.value.reason == "source_unreachable"


async def test_what_was_fetched_is_lent_while_storage_is_down(use, uri, model, cache, tmp_path):
    await publish(model, uri)
    (await cache.fetch(uri, 1, silent)).release()
    use(endpoint="http://127.0.0.1:9")
    restarted = VersionCache(tmp_path / "cache", 0)
    async with await restarted.fetch(uri, 1, silent) as lease:
        assert tree(lease.path) == tree(model)
    with pytest.raises(Unavailable):
        await restarted.fetch(uri, 2, silent)


async def test_cut_connections_are_resumed_within_one_fetch(
    use, s3, uri, model, cache, small_parts
):
    await publish(model, uri)
    async with proxy_to(s3.endpoint) as proxy:
        proxy.cut, proxy.cut_bytes, proxy.cut_times = "weights", 100_000, 5
        use(endpoint=proxy.endpoint)
        async with await cache.fetch(uri, 1, silent) as lease:
            assert tree(lease.path) == tree(model)
        assert proxy.cut_times == 0


async def test_a_fetch_that_failed_goes_on_where_it_stopped(
    use, s3, uri, model, tmp_path, small_parts
):
    await publish(model, uri)
    async with proxy_to(s3.endpoint) as proxy:
        use(endpoint=proxy.endpoint)
        done = []

        def break_later(have, _total):
            done.append(have)
            if have > 2 * MB:
                proxy.cut = "weights"

        cache = VersionCache(tmp_path / "cache", 0, StorageSettings(retries=0, retry_timeout_s=0.1))
        with pytest.raises(Unavailable) as caught:
            await cache.fetch(uri, 1, break_later)
        assert caught.value.reason == "source_unreachable"
        proxy.cut = ""
        again = []
        async with await cache.fetch(uri, 1, lambda have, _: again.append(have)) as lease:
            assert tree(lease.path) == tree(model)
        assert again[0] >= MB


async def test_a_slow_store_is_waited_for(use, s3, uri, model, cache, small_parts):
    await publish(model, uri)
    async with proxy_to(s3.endpoint) as proxy:
        proxy.delay_s = 0.01
        use(endpoint=proxy.endpoint)
        async with await cache.fetch(uri, 1, silent) as lease:
            assert tree(lease.path) == tree(model)


@pytest.mark.parametrize("harm", ["missing", "truncated", "corrupted"])
@pytest.mark.parametrize("path", ["model.onnx", "sub/weights", "_MANIFEST.json"])
async def test_no_damaged_object_is_ever_lent(
    use, uri, model, cache, small_parts, path, harm, tmp_path
):
    await publish(model, uri)
    folder = Folder(uri)
    whole = (await folder.read(f"1/{path}", 10 * MB)).data
    match harm:
        case "missing":
            await folder.delete(f"1/{path}")
        case "truncated":
            await folder.put(f"1/{path}", whole[: len(whole) // 2])
        case "corrupted":
            await folder.put(f"1/{path}", bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(GatewayError) as caught:
        await cache.fetch(uri, 1, silent)
    assert path in caught.value.message
    assert not list((tmp_path / "cache" / "entries").iterdir())
    await folder.put(f"1/{path}", whole)
    async with await cache.fetch(uri, 1, silent) as lease:
        assert tree(lease.path) == tree(model)


async def test_an_object_replaced_during_a_listed_fetch_is_not_taken(
    use, uri, cache, small_parts, s3
):
    store = S3Store(
        s3.bucket,
        prefix=uri.rpartition("/")[2],
        endpoint=s3.endpoint,
        region="us-east-1",
        access_key_id=s3.rw.key,
        secret_access_key=s3.rw.secret,
        client_options={"allow_http": True},
    )
    obstore.put(store, "1/model.onnx", b"a" * MB)
    replaced = []

    def replace(have, _total):
        if have and not replaced:
            replaced.append(True)
            obstore.put(store, "1/model.onnx", b"b" * MB)

    with pytest.raises(Unavailable) as caught:
        await cache.fetch(uri, 1, replace)
    assert caught.value.reason == "source_changing"
    async with await cache.fetch(uri, 1, silent) as lease:
        assert (lease.path / "model.onnx").read_bytes() == b"b" * MB


async def test_a_cut_publish_leaves_nothing_that_serves(use, s3, uri, model):
    async with proxy_to(s3.endpoint) as proxy:
        proxy.cut, proxy.cut_bytes = "weights", 0
        use(endpoint=proxy.endpoint)
        quick = PublishSettings(storage=StorageSettings(retries=0, retry_timeout_s=0.1))
        with pytest.raises(Unavailable):
            await publish(model, uri, 4, settings=quick)
        listing = await ObjectSource(Clock()).look(uri, None)
        assert not listing.versions[4].settled
        proxy.cut = ""
        await publish(model, uri, 4, settings=PublishSettings(takeover_wait_s=0.02))
        assert (await ObjectSource(Clock()).look(uri, None)).versions[4].settled
