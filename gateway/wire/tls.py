"""TLS of a listener: one context for HTTP/1.1 and HTTP/2, which can be replaced by a newer one.

Every look at the files makes a context of its own. Loading into the one in use would be shorter,
but an authority that has been taken out of the file would stay trusted, and a session that was
agreed on under the old one could be taken up again.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from gateway.domain.errors import InvalidRequest

ALPN = ("h2", "http/1.1")
"""In our order of preference: gRPC needs the first, and browsers take it too."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: what RFC 9113 appendix A leaves of it, which every client of this decade offers. The
suites of TLS 1.3 are not chosen here."""


@dataclass(slots=True)
class CertificateFiles:
    """A certificate chain and its key, PEM, and the context that shows them to callers.

    Raises:
        InvalidRequest: a file is missing or unreadable, is no PEM, is encrypted, or the key is not
            the certificate's (`bad_certificate`). The message names the flag and the file.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None
    """Authorities, PEM. With them only callers are let in who show a certificate that one of these
    has signed."""
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.reload()

    def reload(self) -> None:
        """Read the files again. `context` is a new one then; connections that are there keep what
        they negotiated.

        Raises:
            InvalidRequest: as above; `context` stays what it was.
        """
        context = _context()
        self._load_own(context)
        if self.client_ca is not None:
            _trust(context, self.client_ca)
        self.context = context

    def _load_own(self, context: ssl.SSLContext) -> None:
        _try_to_read("--tls-cert", self.cert)
        _try_to_read("--tls-key", self.key)
        try:
            # Without a password of ours OpenSSL would ask the terminal for one, and wait.
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidRequest(_why(error, self.cert, self.key), reason="bad_certificate") from (
                error
            )


def _try_to_read(flag: str, path: Path) -> None:
    """OpenSSL would say neither which file nor why."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InvalidRequest(
            f"{flag} {path} cannot be read: {error.strerror}", reason="bad_certificate"
        ) from error


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    _try_to_read("--tls-client-ca", authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise InvalidRequest(
            f"--tls-client-ca {authorities} holds no certificate in PEM: {error}",
            reason="bad_certificate",
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


class _Encrypted(ValueError):
    pass


def _no_password() -> str:
    raise _Encrypted


def _why(error: Exception, cert: Path, key: Path) -> str:
    if isinstance(error, _Encrypted):
        return f"--tls-key {key} is encrypted; give a key without a passphrase"
    if isinstance(error, ssl.SSLError) and "MISMATCH" in (error.reason or ""):
        return f"--tls-key {key} is not the key of the certificate --tls-cert {cert}"
    return f"--tls-cert {cert} and --tls-key {key} are no certificate and key in PEM: {error}"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(ALPN)
    # A caller could make us negotiate for ever (CVE-2011-1473); nothing of HTTP/2 may (RFC 9113).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context
