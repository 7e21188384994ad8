from __future__ import annotations

import contextlib
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.manifest import (
    OWN_NAMES,
    FileEntry,
    Manifest,
    Pointer,
    PointerEntry,
    build_manifest,
    build_pointer,
    check_path,
    parse_manifest,
    parse_pointer,
)
from gateway.domain.errors import InvalidRequest

shas = st.text("0123456789abcdef", min_size=64, max_size=64)
sizes = st.integers(0, 2**63 - 1)
names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cc",)),
    min_size=1,
    max_size=40,
).filter(lambda name: name not in (".", "..", *OWN_NAMES))
manifests = st.builds(
    lambda version, files: Manifest(version, "t", tuple(sorted(files, key=lambda f: f.path))),
    sizes,
    st.lists(st.builds(FileEntry, names, sizes, shas), min_size=1, unique_by=lambda f: f.path),
)
pointers = st.builds(
    Pointer, st.dictionaries(sizes, st.builds(PointerEntry, shas, sizes, st.just("t")))
)


@given(manifests)
def test_every_manifest_reads_back_as_it_was_built(manifest):
    assert parse_manifest(build_manifest(manifest)) == manifest


@given(pointers)
def test_every_pointer_reads_back_as_it_was_built(pointer):
    assert parse_pointer(build_pointer(pointer)) == pointer


@given(st.binary())
def test_any_bytes_are_read_or_refused_and_nothing_else(data):
    for parse in (parse_manifest, parse_pointer):
        with contextlib.suppress(InvalidRequest):
            parse(data)


@given(st.text())
def test_a_path_that_passes_stays_inside_its_folder(path):
    try:
        checked = PurePosixPath("/root/of/cache") / check_path(path)
    except InvalidRequest:
        return
    assert checked.is_relative_to("/root/of/cache")
    assert ".." not in checked.parts
    assert str(checked) == f"/root/of/cache/{path}"
