"""TLS on both ports, by stock clients, and what happens when its files change."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import aiohttp
import grpc.aio
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import InvalidRequest
from tests.parts.certificates import self_signed, shown_name, trusting
from tests.parts.fake_replica import fake_replica, table, until
from tests.parts.worker_processes import SETTINGS, keep_metrics_alone, opened, workers

pytestmark = pytest.mark.slow

REQUEST = tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()


@pytest.fixture(autouse=True)
def _metrics(monkeypatch):
    keep_metrics_alone(monkeypatch)


@pytest.fixture
def files(tmp_path):
    """Certificate and key of the gateway, which tests replace."""
    return self_signed(tmp_path, "first")


def replace_files(files, made):
    for new, path in zip(made, files, strict=True):
        new.replace(path)


def secured(files, client_ca=""):
    return replace(
        SETTINGS, tls_cert=str(files[0]), tls_key=str(files[1]), tls_client_ca=str(client_ca)
    )


async def over_http(address: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://{address}/v1/models/m:predict", data=b"{}", ssl=context) as answer,
    ):
        return answer.status, await answer.read()


async def over_grpc(address: str, authority: bytes, *own: bytes) -> bytes:
    credentials = grpc.ssl_channel_credentials(authority, *own)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        return await channel.unary_unary(Method.PREDICT.path)(REQUEST, timeout=10)


async def shown(address: str, context: ssl.SSLContext) -> str:
    """The name in the certificate that a new connection is shown."""
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        return shown_name(writer.get_extra_info("ssl_object"))
    finally:
        writer.close()


async def test_both_protocols_are_answered_on_both_ports_and_clear_text_on_none(files):
    async with fake_replica("a") as a, opened(count=1, settings=secured(files)) as planes:
        planes.publish(table(a))
        for address in (planes.http_address, planes.grpc_address):
            assert await over_http(address, trusting(files[0])) == (200, b'{"by": "a"}')
            assert await over_grpc(address, files[0].read_bytes()) == b"answer of a v1"
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.post(f"http://{address}/v1/models/m:predict", data=b"{}")


async def test_only_callers_with_a_certificate_of_the_authority_are_let_in(files, tmp_path):
    caller = self_signed(tmp_path, "caller")
    stranger = self_signed(tmp_path, "stranger")
    authorities = tmp_path / "ca.crt"
    authorities.write_bytes(caller[0].read_bytes())

    def showing(own):
        context = trusting(files[0])
        context.load_cert_chain(*own)
        return context

    settings = secured(files, authorities)
    async with fake_replica("a") as a, opened(count=1, settings=settings) as planes:
        planes.publish(table(a))
        address, root = planes.http_address, files[0].read_bytes()
        assert await over_http(address, showing(caller)) == (200, b'{"by": "a"}')
        own = (caller[1].read_bytes(), caller[0].read_bytes())
        assert await over_grpc(address, root, *own) == b"answer of a v1"
        for context in (trusting(files[0]), showing(stranger)):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await over_http(address, context)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await over_grpc(address, root)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

        # An authority that is taken out is not trusted any more.
        authorities.write_bytes(stranger[0].read_bytes())
        await planes.reload()
        assert await over_http(address, showing(stranger)) == (200, b'{"by": "a"}')
        with pytest.raises((aiohttp.ClientError, OSError)):
            await over_http(address, showing(caller))


@pytest.mark.parametrize("count", [1, 2])
async def test_changed_files_are_shown_within_seconds_to_whoever_comes_anew(files, tmp_path, count):
    first = trusting(files[0])
    folder = tmp_path / "metrics"
    folder.mkdir()
    async with fake_replica("a") as a, opened(folder, count, secured(files)) as planes:
        planes.publish(table(a))
        before = set(workers())
        url = f"https://{planes.http_address}/v1/models/m:predict"
        async with aiohttp.ClientSession() as session:
            async with session.post(url, data=b"{}", ssl=first) as answer:
                assert answer.status == 200
            replace_files(files, self_signed(tmp_path, "second"))
            second = trusting(files[0])

            async def are_all_new() -> bool:
                for _ in range(12):
                    try:
                        assert await shown(planes.http_address, second) == "second"
                    except ssl.SSLCertVerificationError:
                        return False
                return True

            async with asyncio.timeout(30):
                while not await are_all_new():  # noqa: ASYNC110  other processes, another clock
                    await asyncio.sleep(0.1)
            async with session.post(url, data=b"{}", ssl=first) as answer:
                assert answer.status == 200
        assert set(workers()) == before


async def test_files_that_do_not_fit_stop_a_reload_before_any_worker_is_replaced(files, tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    async with fake_replica("a") as a, opened(folder, settings=secured(files)) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        before, context = set(workers()), trusting(files[0])
        files[1].write_bytes(self_signed(tmp_path, "other")[1].read_bytes())
        with pytest.raises(InvalidRequest, match="is not the key of the certificate"):
            await planes.reload()
        assert set(workers()) == before
        assert await over_http(planes.http_address, context) == (200, b'{"by": "a"}')


@pytest.mark.parametrize("count", [1, 2])
async def test_files_that_are_missing_are_said_at_the_start(files, tmp_path, count):
    files[1].unlink()
    with pytest.raises(InvalidRequest, match=r"--tls-key .*first\.key cannot be read: No such"):
        async with opened(tmp_path, count, secured(files)):
            pass
