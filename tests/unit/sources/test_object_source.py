from __future__ import annotations

import pytest

from gateway.domain.errors import InvalidRequest
from gateway.sources import ObjectSource, SourceSettings
from gateway.sources.local_files import recognised, scan


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


async def test_versions_settle_one_by_one(tmp_path):
    clock = Clock()
    source = ObjectSource(clock)
    fill(tmp_path / "1", a=b"x")
    await source.look(str(tmp_path), None)
    clock.time = 9.0
    fill(tmp_path / "2", a=b"x")
    await source.look(str(tmp_path), None)
    clock.time = 10.0
    listing = await source.look(str(tmp_path), None)
    assert {v: seen.settled for v, seen in listing.versions.items()} == {1: True, 2: False}


async def test_only_so_many_sources_are_remembered(tmp_path):
    clock = Clock()
    source = ObjectSource(clock, SourceSettings(max_sources=2))
    for name in "abc":
        fill(tmp_path / name / "1", f=b"x")
        await source.look(str(tmp_path / name), None)
    assert len(source._memories) == 2
    clock.time = 11.0
    assert not (await source.look(str(tmp_path / "a"), None)).versions[1].settled
    assert (await source.look(str(tmp_path / "c"), None)).versions[1].settled


async def test_the_same_source_under_two_spellings_is_one(tmp_path):
    clock = Clock()
    source = ObjectSource(clock)
    fill(tmp_path / "1", f=b"x")
    await source.look(str(tmp_path), None)
    clock.time = 11.0
    assert (await source.look(f"file://{tmp_path}/", None)).versions[1].settled


def test_a_folder_of_a_repository_is_published_without_its_documents(tmp_path):
    fill(tmp_path, **{"model.onnx": b"x", "_MANIFEST.json": b"{}", "_PUBLISHING": b""})
    assert [file.path for file in scan(tmp_path)] == ["model.onnx"]


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["model.onnx"], True),
        (["saved_model.pb"], True),
        (["deploy.prototxt", "weights.caffemodel"], True),
        (["deploy.prototxt"], False),
        (["weights.bin"], False),
    ],
)
def test_which_folders_our_backends_would_load(tmp_path, names, known):
    fill(tmp_path, **dict.fromkeys(names, b"x"))
    assert recognised(scan(tmp_path)) is known


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.sources.local_files.MAX_FILES", 2)
    fill(tmp_path, a=b"", b=b"", c=b"")
    with pytest.raises(InvalidRequest, match="more than 2 files"):
        scan(tmp_path)
