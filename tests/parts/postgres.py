"""A real PostgreSQL for tests: a private cluster in a temporary folder, on 127.0.0.1 only.

    with postgres_server() as server:
        url = server.database()     # an empty database of its own, as postgresql://…

Importable without pytest. The server refuses to run as root, so a test that does runs it as the
user `postgres`, whom the package makes. Nothing is synced to disk: what is shown here survives a
crash of processes, not of the machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, sleep

import psycopg

INSTALL = "apt-get install postgresql; pip install -e '.[postgres]'"
USER, PASSWORD = "gateway", "s3cret-of-the-tests"
START_S = 60.0
"""A 2-core machine that runs a whole test suite beside it needs more than the usual second."""

_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "unix_socket_directories": "",
}


@dataclass
class Postgres:
    """A running server."""

    folder: Path
    bin: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=count)

    def url(self, database: str = "postgres") -> str:
        """With the password in it, as people write it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"test{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the owner of everything."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def cut_connections(self) -> None:
        """End everybody's connections, as a failover does."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )

    def start(self) -> None:
        """Start it on its folder and wait until it answers.

        Raises:
            RuntimeError: it did not become ready.
        """
        options = [f"-c{k}={v}" for k, v in _OPTIONS.items()]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.folder / "data", f"-p{self.port}", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_whom(),
            )
        end = perf_counter() + START_S
        while perf_counter() < end and self.process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            sleep(0.05)
        self.stop()
        tail = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"PostgreSQL did not become ready. Its log ends with:\n{tail}")

    def stop(self) -> None:
        """Drop every connection at once, as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None


def programs() -> Path | None:
    """The folder of the server's programs: where Debian puts them, or on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Make a cluster, start it, and remove it at the end.

    Raises:
        RuntimeError: the program is missing (`programs()` tells beforehand) or does not start.
    """
    where = programs()
    if where is None:
        raise RuntimeError(f"PostgreSQL is not installed: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-"))
    try:
        server = _made(where, folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(where: Path, folder: Path) -> Postgres:
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        for path in (folder, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
    subprocess.run(
        [
            *(where / "initdb", "-D", folder / "data", "-U", USER, "--no-sync", "-E", "UTF8"),
            *("--auth=scram-sha-256", f"--pwfile={secret}", "--locale=C"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        **_whom(),
    )
    for attempt in range(3):  # a picked port can be taken by somebody else before it is bound
        server = Postgres(folder, where, _free_port())
        try:
            server.start()
        except RuntimeError:
            if attempt == 2:
                raise
        else:
            return server
    raise AssertionError("the last attempt returns or raises")


def _whom() -> dict[str, object]:
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
