"""Certificates for tests, made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from tests.parts.need import need


def self_signed(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost, and its key."""
    need(shutil.which("openssl") is not None, "apt-get install openssl")
    cert, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
         "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def trusting(cert: Path, *alpn: str) -> ssl.SSLContext:
    """A client's context that trusts this certificate alone."""
    context = ssl.create_default_context(cafile=str(cert))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def shown_name(secured: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The common name of the certificate that the other end has shown."""
    subject = (secured.getpeercert() or {}).get("subject", ())
    return next(str(v) for part in subject for k, v in part if k == "commonName")  # type: ignore[misc]
