"""What obstore raises, in our own tree and with words that say what to do.

obstore gives a class for an answer to a GET or PUT, but a generic error with the server's words in
its text for a LIST and for everything on the way (seen on 0.12: a LIST with a wrong secret is a
GenericError around "status code: 403"). So the text is searched for the few marks that decide, and
its first line, without the dump of the client's state, is what people get to read.
"""

from __future__ import annotations

import re

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from gateway.domain.errors import Forbidden, GatewayError, InvalidRequest, NotFound, Unavailable

_DENIED = re.compile(
    r"status code: 40[13]\b|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|os error 13\b"
)
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|fd00:ec2::254|latest/api/token|metadata\.google\.internal"
    r"|computeMetadata|metadata/identity",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|status code: 404\b")
_BUILD = re.compile(
    r"builder error|Unable to recognise URL|must be specified|Missing|Unable to (parse|decode)"
    r"|Configuration key|invalid"
)
_RETRYABLE = re.compile(r"status code: (5\d\d|429|409)\b|error sending request|HTTP error")
_FULL = re.compile(r"os error (28|122)\b")

_HINT = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a server of your own, "
    "AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def translate(error: Exception, uri: str, deed: str) -> GatewayError:
    """The domain error for what happened when we wanted to `deed` ("read", "list", "write")
    `uri`."""
    text = str(error)
    said = _first_line(text)
    if _NO_CREDENTIALS.search(text):
        return Forbidden(
            f"{uri}: no credentials were found for it. Set {_hint(uri)}.", reason="source_denied"
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or (
        _DENIED.search(text)
    ):
        return Forbidden(
            f"{uri}: the storage refused to {deed} it ({said}). Check the rights of the key in use "
            f"({_hint(uri)}) on this place.",
            reason="source_denied",
        )
    if isinstance(error, FileNotFoundError) or _NO_BUCKET.search(text):
        return NotFound(
            f"{uri}: there is no such bucket or folder. Check the spelling and, for a server of "
            "your own, the endpoint.",
            reason="source_not_found",
        )
    if _FULL.search(text):
        return Unavailable(f"{uri}: its disk is full ({said}).", reason="disk_full")
    if _RETRYABLE.search(text) and "builder error" not in text:
        return _unreachable(uri, deed, said)
    if isinstance(
        error, InvalidPathError | NotSupportedError | UnknownConfigurationKeyError | ValueError
    ) or _BUILD.search(said):
        return InvalidRequest(f"{uri}: cannot {deed} it: {said}.", reason="bad_source")
    return _unreachable(uri, deed, said)


def timed_out(uri: str, deed: str, seconds: float) -> Unavailable:
    """No answer within our own bound."""
    return _unreachable(uri, deed, f"no answer within {seconds:g} s")


def conflicts(error: Exception) -> bool:
    """Whether a conditional write lost against another (412, or S3's 409 for two at once)."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    if isinstance(error, AlreadyExistsError | PreconditionError):
        return True
    return isinstance(error, BaseError) and "status code: 409" in str(error)


def bucket_is_missing(error: Exception) -> bool:
    """Whether a 404 speaks of the whole bucket rather than of one object."""
    text = str(error)
    return "NoSuchBucket" in text or "ContainerNotFound" in text


def _unreachable(uri: str, deed: str, said: str) -> Unavailable:
    return Unavailable(
        f"{uri}: the storage did not answer when asked to {deed} it ({said}). Check that it runs "
        "and that the endpoint is right; trying again goes on.",
        reason="source_unreachable",
        retry_after_s=5.0,
    )


def _hint(uri: str) -> str:
    scheme = uri.partition("://")[0]
    if scheme in ("file", uri):
        return "the owner and mode of the files"
    kind = {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme if scheme in _HINT else "az")
    return _HINT[kind]


def _first_line(text: str) -> str:
    """The part for people: without the debug dump, the XML and the timing that follow it."""
    line = text.partition("\n\nDebug source:")[0]
    code = re.search(r"<Code>([^<]{1,80})</Code>", line)
    status = re.search(r"status code: (\d{3}[^:<\n]{0,40})", line)
    if status:
        return f"{status[1].strip()}{f', {code[1]}' if code else ''}"
    line = line.partition("<?xml")[0]
    return " ".join(line.split())[:300].rstrip(" .:")
