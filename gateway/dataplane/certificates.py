"""The certificate files of one process: read, looked at for changes, shown to callers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.errors import InvalidRequest
from gateway.telemetry import log
from gateway.wire.listener import Listener
from gateway.wire.tls import CertificateFiles

_LOOK_S = 1.0
"""Certificates are renewed days before they end. This is for people who watch it happen."""

Stamps = tuple[tuple[int, int, int] | None, ...]
"""Of each file that is there: inode, size, and when it was written. A link is followed, so that the
links which Kubernetes exchanges count as well."""


def certificate_files(settings: DataplaneSettings) -> CertificateFiles | None:
    """What the settings name; None where they name nothing.

    Raises:
        InvalidRequest: as CertificateFiles.
    """
    if not settings.tls_cert:
        return None
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return CertificateFiles(Path(settings.tls_cert), Path(settings.tls_key), client_ca)


class Certificates:
    """Keeps a listener's TLS at what the files say."""

    def __init__(self, files: CertificateFiles, listener: Listener) -> None:
        self._files = files
        self._listener = listener
        self._read = _stamps(files)
        """What the files were when they were last read, well or badly."""
        self._seen = self._read

    def reload(self) -> None:
        """Read the files, for handshakes from now on.

        Raises:
            InvalidRequest: as CertificateFiles; what was there before stays in use.
        """
        self._read = _stamps(self._files)
        self._files.reload()
        self._listener.tls = self._files.context
        log.event("tls.reloaded", cert=self._files.cert)

    def look(self) -> None:
        """Read the files if they have changed since they were read, and not since the last look:
        who replaces them writes one after the other."""
        before, self._seen = self._seen, _stamps(self._files)
        if self._seen == self._read or self._seen != before:
            return
        try:
            self.reload()
        except InvalidRequest as error:
            log.warning("tls.reload_failed", cause=error.reason, message=error.message)

    async def watch(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()


def _stamps(files: CertificateFiles) -> Stamps:
    paths = (files.cert, files.key, *([files.client_ca] if files.client_ca else []))
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
