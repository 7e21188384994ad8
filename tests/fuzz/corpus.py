"""The kept cases of each target, one archive for each: as files they would be thousands."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
_A_DATE = (2026, 1, 1, 0, 0, 0)
"""The same for all, so that the same cases give the same archive."""


def cases(target: str) -> list[tuple[str, bytes]]:
    """Names and bytes of the kept cases."""
    archive = FOLDER / f"{target}.zip"
    if not archive.exists():
        return []
    with zipfile.ZipFile(archive) as opened:
        return [(name, opened.read(name)) for name in opened.namelist()]


def pack(target: str, found: Iterable[bytes]) -> int:
    """Replace the archive by these; how many there are."""
    named = {hashlib.sha1(case).hexdigest()[:12]: case for case in found}
    FOLDER.mkdir(exist_ok=True)
    with zipfile.ZipFile(
        FOLDER / f"{target}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9
    ) as out:
        for name in sorted(named, key=lambda name: (len(named[name]), name)):
            info = zipfile.ZipInfo(name, _A_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, named[name])
    return len(named)
