"""See the backend from a version's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from gateway.domain.models import Backend

RECOGNISED = (
    "`model.onnx` or another *.onnx (onnx), `saved_model.pb` or `saved_model.pbtxt` "
    "(tensorflow), *.prototxt with *.caffemodel (caffe)"
)
"""For error words."""

_SHOWN = 10


def backend_of(files: Sequence[str]) -> Backend | None:
    """Which backend can load these files (relative paths); None where none or several could.

    Only the version's own folder counts: a SavedModel may carry an .onnx among its assets.
    """
    top = [p.name for p in map(PurePosixPath, files) if len(p.parts) == 1]
    kinds = {PurePosixPath(name).suffix.lower() for name in top}
    found = set()
    if ".onnx" in kinds:
        found.add(Backend.ONNX)
    if "saved_model.pb" in top or "saved_model.pbtxt" in top:
        found.add(Backend.TENSORFLOW)
    if {".prototxt", ".caffemodel"} <= kinds:
        found.add(Backend.CAFFE)
    return found.pop() if len(found) == 1 else None


def shown(files: Sequence[str]) -> str:
    """Some of the files, for error words."""
    if not files:
        return "no files"
    rest = len(files) - _SHOWN
    return ", ".join(sorted(files)[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
