"""One folder of objects: the few operations that a model repository needs, each bounded in time and
size, each answering in domain errors.

A missing object is an answer (None) and not an error, as a repository without a pointer is
ordinary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotModifiedError, PreconditionError

from gateway.domain.errors import InvalidRequest, NotFound
from gateway.storage.errors import bucket_is_missing, conflicts, timed_out, translate
from gateway.storage.opening import Kind, Location, StorageSettings, locate, store_of

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import ObjectStore

_FOREIGN = (BaseError, OSError, ValueError, NotImplementedError)
"""What obstore raises: its own tree, FileNotFoundError and PermissionError, ValueError for bad
configuration, NotImplementedError for what a store cannot do."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A small object, whole."""

    data: bytes
    etag: str
    generation: str | None = None
    """GCS replaces by generation, not by ETag."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as a listing shows it."""

    path: str
    """Relative to the folder."""
    size: int
    etag: str
    """On local files made of inode, mtime and size. Where a store gives none, its mtime."""


class Unchanged(Exception):
    """The object still has the ETag that the reader named."""


class ChangedMeanwhile(Exception):
    """The object is no longer the one that the reader or writer meant."""


class TooMany(Exception):
    """A listing went over its bound."""


class Folder:
    """A folder behind a URI. Cheap to keep; holds a connection pool, so keep it for polling."""

    def __init__(
        self, uri: str, *, create: bool = False, settings: StorageSettings | None = None
    ) -> None:
        """Raises InvalidRequest (`bad_source`), NotFound (`source_not_found`, local folders)."""
        self._settings = settings or StorageSettings()
        self.location: Location = locate(uri)
        self._store: ObjectStore = store_of(self.location, self._settings, create=create)

    def __repr__(self) -> str:  # never the store's own: it may show, or panic on, its configuration
        return f"Folder({self.location.uri!r})"

    @property
    def uri(self) -> str:
        return self.location.uri

    async def read(self, path: str, limit: int, *, known_etag: str = "") -> Blob | None:
        """A small object, or None if there is none.

        Raises:
            Unchanged: it still has `known_etag` (one conditional GET, no body).
            InvalidRequest: it has more than `limit` bytes (nothing beyond is read).
            Forbidden, NotFound (the bucket), Unavailable.
        """
        key = self._key(path)
        options: obstore.GetOptions = {"if_none_match": known_etag} if known_etag else {}
        try:
            async with self._bounded("read", self._settings.look_timeout_s):
                result = await obstore.get_async(self._store, key, options=options)
                meta = result.meta
                if meta["size"] > limit:
                    raise InvalidRequest(
                        f"{self.uri}/{path} has {meta['size']} bytes; {limit} is the most.",
                        reason="bad_source",
                    )
                data = bytes(await result.bytes_async())
        except NotModifiedError:
            raise Unchanged from None
        except FileNotFoundError as error:
            if bucket_is_missing(error):
                raise translate(error, self.uri, "read") from error
            return None
        except _FOREIGN as error:
            raise translate(error, f"{self.uri}/{path}", "read") from error
        return Blob(data, meta["e_tag"] or "", meta["version"])

    async def stream(
        self, path: str, start: int, end: int, *, etag: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """The bytes `[start, end)` of an object, in chunks of about 1 MiB.

        Raises:
            ChangedMeanwhile: it is gone, or has another ETag than `etag`, or is shorter.
            Forbidden, Unavailable.
        """
        options: obstore.GetOptions = {"range": (start, end)}
        if etag and self.location.kind is not Kind.LOCAL:
            options["if_match"] = etag
        try:
            result = await obstore.get_async(self._store, self._key(path), options=options)
            if etag and (result.meta["e_tag"] or etag) != etag:
                raise ChangedMeanwhile(path)
            async for chunk in result.stream(min_chunk_size=2**20):
                yield bytes(chunk)
        except (PreconditionError, FileNotFoundError) as error:
            raise ChangedMeanwhile(path) from error
        except _FOREIGN as error:
            text = str(error)
            if "status code: 416" in text or "out of bounds" in text or "out of range" in text:
                raise ChangedMeanwhile(path) from error
            raise translate(error, f"{self.uri}/{path}", "read") from error

    async def children(self) -> tuple[list[str], list[Entry]]:
        """Names of the folders, and the objects, directly inside: one page per 1000 of them,
        however much lies below. Raises NotFound (no such bucket), Forbidden, Unavailable."""
        self._check_there()
        try:
            async with self._bounded("list", self._settings.list_timeout_s):
                result = await obstore.list_with_delimiter_async(
                    self._store, self.location.prefix or None
                )
        except _FOREIGN as error:
            raise translate(error, self.uri, "list") from error
        folders = [self._relative(prefix) for prefix in result["common_prefixes"]]
        return sorted(folders), [self._entry(meta) for meta in result["objects"]]

    async def walk(self, below: str = "", *, limit: int) -> list[Entry]:
        """Every object below `below`, sorted by path. Raises TooMany at the first beyond `limit`,
        having read at most one page more; NotFound (no such bucket), Forbidden, Unavailable."""
        found: list[Entry] = []
        prefix = self._key(below) if below else self.location.prefix
        self._check_there()
        try:
            async with self._bounded("list", self._settings.list_timeout_s):
                # obstore 0.12 steps this stream one page at a time, so the bound holds.
                async for page in obstore.list(self._store, prefix or None, chunk_size=1000):
                    found.extend(self._entry(meta) for meta in page)
                    if len(found) > limit:
                        raise TooMany
        except _FOREIGN as error:
            raise translate(error, self.uri, "list") from error
        return sorted(found, key=lambda entry: entry.path)

    async def put(self, path: str, data: bytes) -> str:
        """Write a small object whole; returns its ETag. Raises Forbidden, NotFound, Unavailable."""
        return await self._put(path, data, "overwrite")

    async def create(self, path: str, data: bytes) -> str:
        """Write an object that must not exist yet. Raises ChangedMeanwhile if it does."""
        return await self._put(path, data, "create")

    async def replace(self, path: str, data: bytes, old: Blob) -> str:
        """Write an object that must still be `old`. Raises ChangedMeanwhile if it is not.

        Not for local folders, whose store cannot; see sources/pointer.py for those.
        """
        version: obstore.UpdateVersion = {}
        if old.etag:
            version["e_tag"] = old.etag
        if old.generation is not None:
            version["version"] = old.generation
        return await self._put(path, data, version)

    async def upload(
        self, path: str, chunks: AsyncIterable[bytes], *, part_bytes: int, parallel: int
    ) -> str:
        """Write a large object by multipart upload as `chunks` come; returns its ETag."""
        try:
            result = await obstore.put_async(
                self._store,
                self._key(path),
                chunks,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=parallel,
            )
        except _FOREIGN as error:
            raise translate(error, f"{self.uri}/{path}", "write") from error
        return result["e_tag"] or ""

    async def delete(self, path: str) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            async with self._bounded("write", self._settings.look_timeout_s):
                await obstore.delete_async(self._store, self._key(path))
        except FileNotFoundError:
            return
        except _FOREIGN as error:
            raise translate(error, f"{self.uri}/{path}", "delete") from error

    async def _put(self, path: str, data: bytes, mode: PutMode) -> str:
        try:
            async with self._bounded("write", self._settings.request_timeout_s):
                result = await obstore.put_async(
                    self._store, self._key(path), data, mode=mode, use_multipart=False
                )
        except _FOREIGN as error:
            if mode != "overwrite" and conflicts(error):
                raise ChangedMeanwhile(path) from error
            raise translate(error, f"{self.uri}/{path}", "write") from error
        return result["e_tag"] or ""

    def _check_there(self) -> None:
        """A local folder that was removed lists as empty; say that it is gone instead."""
        if self.location.kind is Kind.LOCAL and not Path(self.location.root).is_dir():
            raise NotFound(
                f"{self.uri}: the folder does not exist any more.", reason="source_not_found"
            )

    @asynccontextmanager
    async def _bounded(self, deed: str, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise timed_out(self.uri, deed, seconds) from error

    def _key(self, path: str) -> str:
        return f"{self.location.prefix}/{path}" if self.location.prefix else path

    def _relative(self, key: str) -> str:
        prefix = self.location.prefix
        return key[len(prefix) + 1 :] if prefix else key

    def _entry(self, meta: ObjectMeta) -> Entry:
        etag = meta["e_tag"] or meta["last_modified"].isoformat()
        return Entry(self._relative(meta["path"]), meta["size"], etag)
