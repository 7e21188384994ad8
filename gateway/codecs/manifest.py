"""The two documents that make a model repository safe to read.

`<version>/_MANIFEST.json` names every file of a version with size and sha256; it is written after
the files. `_VERSIONS.json`, the pointer, names the published versions and the sha256 of each one's
manifest; it is replaced last. A reader who trusts nothing but the pointer can therefore tell a
whole version from a half-uploaded one, and a damaged file from a good one.

Both come from storage that others can write, so parsing is strict: what is not exactly as described
is refused with `bad_source`, and paths that could lead out of a folder never get further than here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX, Version, parse_version

FORMAT = 1
MANIFEST_NAME = "_MANIFEST.json"
POINTER_NAME = "_VERSIONS.json"
MARKER_NAME = "_PUBLISHING"
"""Lies in a version's folder while `gateway publish` fills it; such a folder is never served."""
OWN_NAMES = frozenset({MANIFEST_NAME, MARKER_NAME})

MAX_FILES = 20_000
"""Files in one version. The largest SavedModels hold a few thousand variable shards."""
MAX_VERSIONS = 10_000
"""Versions in one pointer: a new one each hour for more than a year."""
MAX_MANIFEST_BYTES = 16 * 2**20
"""20 000 files with long names; more is not a manifest."""
MAX_POINTER_BYTES = 4 * 2**20
MAX_PATH_BYTES = 900
"""S3 keys end at 1024 bytes and the source's own prefix needs room."""
MAX_NAME_BYTES = 240
"""File systems end at 255 bytes; the cache adds suffixes."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version."""

    path: str
    """Relative to the version's folder, `/` between parts."""
    size: int
    sha256: str
    """64 lower-case hex digits."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every file of one version."""

    version: Version
    created_at: str
    """RFC 3339, UTC."""
    files: tuple[FileEntry, ...]
    """By path, ascending."""

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True, slots=True)
class PointerEntry:
    """What the pointer says of one version."""

    manifest_sha256: str
    total_bytes: int
    published_at: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """The published versions."""

    versions: Mapping[Version, PointerEntry] = field(default_factory=dict)


def digest(data: bytes) -> str:
    """sha256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def check_path(path: str) -> str:
    """Return `path` if it names a file inside a folder wherever it is joined to one.

    Raises:
        InvalidRequest: it is empty, absolute, has `.`, `..` or empty parts, a backslash, control
            characters, or is too long for an object key or a file name.
    """
    parts = path.split("/")
    bad = (
        not path
        or any(part in ("", ".", "..") for part in parts)
        or _CONTROL.search(path) is not None
    )
    if not bad:
        try:
            bad = len(path.encode()) > MAX_PATH_BYTES or any(
                len(part.encode()) > MAX_NAME_BYTES for part in parts
            )
        except UnicodeEncodeError:  # lone surrogates: a file name that is not UTF-8
            bad = True
    if bad:
        raise _refused(f"the file path {path[:200]!r} is not allowed in a model version")
    return path


def build_manifest(manifest: Manifest) -> bytes:
    """The document; the same manifest gives the same bytes."""
    files = sorted(manifest.files, key=lambda entry: entry.path)
    return _dump(
        {
            "format": FORMAT,
            "version": manifest.version,
            "created_at": manifest.created_at,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files],
        }
    )


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Unknown keys are passed over, so that later formats can add some.

    Raises:
        InvalidRequest: `bad_source`; the words say what is wrong with it.
    """
    document = _load(data, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    version = _integer(document, "version", MANIFEST_NAME)
    raw_files = document.get("files")
    if not isinstance(raw_files, list) or not raw_files:
        raise _refused(f"{MANIFEST_NAME} names no files")
    if len(raw_files) > MAX_FILES:
        raise _refused(f"{MANIFEST_NAME} names {len(raw_files)} files; {MAX_FILES} is the most")
    files = [_file(raw) for raw in raw_files]
    _check_tree([entry.path for entry in files])
    files.sort(key=lambda entry: entry.path)
    return Manifest(version, _text(document, "created_at"), tuple(files))


def build_pointer(pointer: Pointer) -> bytes:
    """The document; versions ascending, so that equal pointers are equal bytes."""
    return _dump(
        {
            "format": FORMAT,
            "versions": {
                str(version): {
                    "manifest_sha256": entry.manifest_sha256,
                    "total_bytes": entry.total_bytes,
                    "published_at": entry.published_at,
                }
                for version, entry in sorted(pointer.versions.items())
            },
        }
    )


def parse_pointer(data: bytes) -> Pointer:
    """Read a pointer. Raises InvalidRequest (`bad_source`)."""
    document = _load(data, POINTER_NAME, MAX_POINTER_BYTES)
    raw = document.get("versions")
    if not isinstance(raw, dict):
        raise _refused(f'{POINTER_NAME} has no "versions" object')
    if len(raw) > MAX_VERSIONS:
        raise _refused(f"{POINTER_NAME} names {len(raw)} versions; {MAX_VERSIONS} is the most")
    versions: dict[Version, PointerEntry] = {}
    for name, entry in raw.items():
        version = parse_version(name)
        if version is None or str(version) != name:
            raise _refused(f"{POINTER_NAME} names a version {name[:40]!r}, which is no version")
        if not isinstance(entry, dict):
            raise _refused(f"{POINTER_NAME} says nothing of version {name}")
        versions[version] = PointerEntry(
            _sha256(entry.get("manifest_sha256"), f"version {name} in {POINTER_NAME}"),
            _integer(entry, "total_bytes", f"version {name} in {POINTER_NAME}"),
            _text(entry, "published_at"),
        )
    return Pointer(versions)


def _file(raw: Any) -> FileEntry:
    if not isinstance(raw, dict) or not isinstance(raw.get("path"), str):
        raise _refused(f'{MANIFEST_NAME} has an entry without a "path"')
    path = check_path(raw["path"])
    if path in OWN_NAMES:
        raise _refused(f"{MANIFEST_NAME} names {path}, which is not a file of the model")
    where = f"{path[:200]!r} in {MANIFEST_NAME}"
    return FileEntry(path, _integer(raw, "size", where), _sha256(raw.get("sha256"), where))


def _check_tree(paths: list[str]) -> None:
    """Refuse paths named twice, and a file that would also have to be a folder."""
    seen = set(paths)
    if len(seen) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise _refused(f"{MANIFEST_NAME} names {twice[:200]!r} twice")
    for path in paths:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                raise _refused(f"{MANIFEST_NAME} names {parent[:200]!r} as a file and as a folder")


def _load(data: bytes, name: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise _refused(f"{name} has {len(data)} bytes; {limit} is the most")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refused(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _refused(f"{name} is not a JSON object")
    if document.get("format") != FORMAT or isinstance(document.get("format"), bool):
        raise _refused(
            f"{name} has format {document.get('format')!r}; this program reads {FORMAT}. "
            "Update the gateway, or publish again with this one"
        )
    return document


def _dump(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _integer(document: Mapping[str, Any], key: str, where: str) -> int:
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= INT64_MAX:
        raise _refused(f"{where}: {key!r} is {str(value)[:40]!r}, not an integer from 0 to 2^63-1")
    return value


def _sha256(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _refused(f"{where} has no sha256 of 64 lower-case hex digits")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key, "")
    return value[:64] if isinstance(value, str) else ""


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what}.", reason="bad_source")
