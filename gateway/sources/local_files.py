"""The folder that somebody wants to publish."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.codecs.manifest import MAX_FILES, OWN_NAMES, check_path
from gateway.domain.errors import InvalidRequest

_STAGING = re.compile(r"#\d+$")
"""How obstore's local store names files that it is still writing, and which it never lists."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to upload."""

    path: str
    """Relative to the folder, `/` between parts."""
    source: Path
    """Where its bytes are; links inside the folder are followed."""
    size: int


def scan(directory: Path) -> tuple[LocalFile, ...]:
    """Every file below `directory`, by path. Links to files and folders inside it count as copies.

    Raises:
        InvalidRequest: `bad_model`; it is not there, empty, holds something that is no file, a link
            that leads out or nowhere, a name that object storage cannot hold, or too many files.
    """
    if not directory.is_dir():
        what = "is not a folder" if directory.exists() else "does not exist"
        raise _refused(f"{directory} {what}; give the folder with the version's files")
    root = directory.resolve()
    found: list[LocalFile] = []
    _scan_into(root, root, "", (), found)
    if not found:
        raise _refused(f"{directory} holds no files; give the folder with the version's files")
    return tuple(sorted(found, key=lambda file: file.path))


def recognised(files: Sequence[LocalFile]) -> bool:
    """Whether one of our backends would load this."""
    names = {file.path for file in files if "/" not in file.path}
    suffixes = {Path(name).suffix for name in names}
    return bool(
        {"model.onnx", "saved_model.pb", "saved_model.pbtxt"} & names
        or {".prototxt", ".caffemodel"} <= suffixes
    )


def _scan_into(
    root: Path, folder: Path, prefix: str, above: tuple[Path, ...], found: list[LocalFile]
) -> None:
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise _refused(f"{folder} cannot be read: {error.strerror}") from error
    for child in children:
        path = prefix + child.name
        if not prefix and child.name in OWN_NAMES:
            continue  # from a folder that was fetched from a repository
        target = _target(root, Path(child.path))
        info = target.stat()
        if stat.S_ISDIR(info.st_mode):
            if target in (*above, folder):
                raise _refused(f"{child.path} links to a folder that it lies in")
            _scan_into(root, target, f"{path}/", (*above, folder), found)
        elif stat.S_ISREG(info.st_mode):
            if _STAGING.search(child.name):
                raise _refused(
                    f"{child.path} ends in # and digits, as the half-written files of local object "
                    "stores do, so readers would pass it over; give it another name"
                )
            found.append(LocalFile(check_path(path), target, info.st_size))
            if len(found) > MAX_FILES:
                raise _refused(f"{root} holds more than {MAX_FILES} files")
        else:
            raise _refused(f"{child.path} is neither a file nor a folder")


def _target(root: Path, path: Path) -> Path:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _refused(f"{path} is a link that leads nowhere") from error
    if not target.is_relative_to(root):
        raise _refused(
            f"{path} links to {target}, out of the folder; copy the file in if it belongs to the "
            "model"
        )
    return target


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what}.", reason="bad_model")
