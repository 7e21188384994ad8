"""Where the real models lie; a test that wants a missing one is skipped, with the command."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.parts.fetch_models import DEFAULT_DIR, PACKAGES
from tests.parts.need import need

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / DEFAULT_DIR

BASIC_PITCH_TF = "basic_pitch_tf"
BASIC_PITCH_ONNX = "basic_pitch_onnx"
OPEN_NSFW_CAFFE = "open_nsfw_caffe"
OPEN_NSFW_ONNX = "open_nsfw_onnx"
MAGIKA = "magika"


def model_dir(name: str) -> Path:
    """The folder of model `name`, whose child `1` is its version; skips the test without it."""
    need(_is_complete(name), "make models")
    return MODELS / name


@cache
def _is_complete(name: str) -> bool:
    # Sizes only: the fetcher compares digests, and tests should not hash 48 MB each time.
    members = [m for p in PACKAGES for m in p.members if m.to.startswith(f"{name}/")]
    if not members:
        raise ValueError(f"there is no real model {name!r}; see tests/parts/fetch_models.py")
    return all(
        (MODELS / m.to).is_file() and (MODELS / m.to).stat().st_size == m.size for m in members
    )
