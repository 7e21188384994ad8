"""From a URI to an object store, by obstore: `s3:// gs:// az:// file://` and plain paths.

Credentials, regions and endpoints come from the environment, under the names that obstore documents
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`,
`AZURE_STORAGE_ACCOUNT_NAME` …). That is the one place outside config.py that looks at the
environment, and obstore does the looking: these names are the platforms' own, and model servers
need them too. The only variables read here tell whether the endpoint is plain HTTP, which obstore
refuses unless it is told.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from gateway.domain.errors import InvalidRequest, NotFound, Unavailable
from gateway.storage.errors import translate

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_S3, _GCS = ("s3", "s3a"), ("gs", "gcs")
_AZURE = ("az", "azure", "adl", "abfs", "abfss")


class Kind(StrEnum):
    """What stands behind a URI; they differ in how an object is replaced conditionally."""

    LOCAL = "local"
    S3 = "s3"
    GCS = "gcs"
    AZURE = "azure"


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How long storage may take. Wrong credentials and dead endpoints must answer in seconds."""

    connect_timeout_s: float = 3.0
    """Per attempt. A store that is there accepts within milliseconds; 3 s outlasts one lost SYN."""

    stall_timeout_s: float = 15.0
    """Silence within one answer that ends the attempt."""

    request_timeout_s: float = 180.0
    """One request with its body. An 8 MiB part at 50 KB/s passes."""

    retries: int = 2
    """Attempts after the first, on 5xx and broken connections. The callers' own loops retry for
    ever with backoff and say so in the status; hiding an outage in here would hide it from
    people."""

    retry_timeout_s: float = 8.0
    """No retry starts later than this after the first attempt."""

    look_timeout_s: float = 12.0
    """Bound on one small operation (pointer, manifest), retries included."""

    list_timeout_s: float = 60.0
    """Bound on one listing: about 100 pages of 1000 objects."""


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart."""

    uri: str
    """Normalized: no trailing slash; a plain path becomes `file://` and absolute."""
    kind: Kind
    root: str
    """URL of the store itself: `s3://bucket`, or the folder of a local one."""
    prefix: str
    """Key prefix inside the store, without slashes at its ends."""


def locate(uri: str) -> Location:
    """Take a URI apart without touching the network.

    Raises:
        InvalidRequest: `bad_source`; no scheme that we know, no bucket, or a remote host in `file://`.
    """
    text = uri.strip()
    if not text or "\0" in text:
        raise _bad(uri, "it is empty")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        return _local(uri, text)
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise _bad(uri, f"file:// cannot reach the host {host!r}; write file:///path")
        return _local(uri, urllib.parse.unquote("/" + path))
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise _bad(uri, "it names no bucket")
    key = "/".join(part for part in key.split("/") if part)
    if any(part in (".", "..") for part in key.split("/")):
        raise _bad(uri, "'.' and '..' mean nothing in object storage")
    normal = f"{scheme}://{bucket}/{key}".rstrip("/")
    if scheme in _S3:
        return Location(normal, Kind.S3, f"s3://{bucket}", key)
    if scheme in _GCS:
        return Location(normal, Kind.GCS, f"gs://{bucket}", key)
    if scheme in _AZURE:
        # Where account and container stand in an Azure URL is obstore's to say, so it gets it
        # whole.
        return Location(normal, Kind.AZURE, normal, "")
    raise _bad(uri, f"{scheme}:// is not known; use s3://, gs://, az://, file:// or a path")


def open_store(
    uri: str, *, create: bool = False, settings: StorageSettings | None = None
) -> tuple[ObjectStore, str]:
    """The obstore store behind `uri` and the prefix in it, without touching the network.

    `create` makes a local folder that is not there; buckets are never made.

    Raises:
        InvalidRequest: `bad_source`; the URI or the environment's options for it.
        NotFound: `source_not_found`; a local folder that is not there.
    """
    location = locate(uri)
    return store_of(location, settings or StorageSettings(), create=create), location.prefix


def store_of(location: Location, settings: StorageSettings, *, create: bool) -> ObjectStore:
    """As `open_store`, for a URI that was taken apart already."""
    if location.kind is Kind.LOCAL:
        return _open_local(location, create=create)
    options: ClientConfig = {
        "allow_http": _plain_http(os.environ),
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "read_timeout": timedelta(seconds=settings.stall_timeout_s),
        "timeout": timedelta(seconds=settings.request_timeout_s),
    }
    retry: RetryConfig = {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.retry_timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        },
    }
    try:
        return from_url(location.root, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise translate(error, location.uri, "open") from error


def _open_local(location: Location, *, create: bool) -> ObjectStore:
    folder = Path(location.root)
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            kind = "is not a folder" if folder.exists() else "does not exist"
            raise NotFound(
                f"{location.uri}: {folder} {kind}. Check the spelling, or publish a version there.",
                reason="source_not_found",
            )
        return LocalStore(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"{location.uri}: {folder} is not a folder.", reason="bad_source"
        ) from error
    except PermissionError as error:
        raise translate(error, location.uri, "open") from error
    except (BaseError, OSError) as error:
        raise Unavailable(
            f"{location.uri}: the folder cannot be opened: {error}.", reason="source_unreachable"
        ) from error


def _local(uri: str, path: str) -> Location:
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    root = os.path.abspath(path)  # not resolve(): a symlink that moves on is meant to be followed
    if root == "/":
        raise _bad(uri, "the whole file system is no model repository")
    return Location(f"file://{urllib.parse.quote(root)}", Kind.LOCAL, root, "")


def _plain_http(environment: Mapping[str, str]) -> bool:
    """Whether the S3 endpoint is `http://`, or plain HTTP was asked for."""
    if environment.get("AWS_ALLOW_HTTP", "").strip().lower() in ("1", "true", "yes", "on"):
        return True
    found = next((environment[name] for name in _ENDPOINT_VARIABLES if environment.get(name)), "")
    return found.lower().startswith("http://")


def _bad(uri: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{uri[:200]!r} cannot be a model source: {why}.", reason="bad_source")
