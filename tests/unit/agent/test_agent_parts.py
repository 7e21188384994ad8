"""The agent's decisions: merged states, the shared folder, TensorFlow Serving's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.domain.errors import InvalidRequest, Unavailable
from gateway.domain.models import VersionState, VersionStatus
from servers.agent.child import ChildSettings, command
from servers.agent.runtime import merged
from servers.agent.shared import MARKER, FolderNotOurs, SharedVersions, source_for
from servers.kit.versions import LocalFolders

READY = VersionStatus(3, VersionState.READY)


def said(state, **more):
    return {3: VersionStatus(3, state, **more)}


@pytest.mark.parametrize(
    ("theirs", "state"),
    [
        (said(VersionState.READY), VersionState.READY),
        (said(VersionState.LOADING), VersionState.LOADING),
        (said(VersionState.DRAINING), VersionState.DRAINING),
        (said(VersionState.FAILED, reason="no", error_code=3), VersionState.FAILED),
        (said(VersionState.GONE), VersionState.LOADING),
        (said(VersionState.NEW), VersionState.LOADING),
        ({}, VersionState.LOADING),
        (None, VersionState.LOADING),
    ],
)
def test_ready_only_while_tensorflow_serving_says_so(theirs, state):
    (status,) = merged([READY], theirs)
    assert status.state is state
    if state is not VersionState.READY and theirs in ({}, None):
        assert status.error_code == 14
        assert "TensorFlow Serving" in status.reason


def test_what_is_not_ready_stays_the_agents_own_word():
    ours = [VersionStatus(3, VersionState.FETCHING, fetched_bytes=1, total_bytes=2)]
    assert merged(ours, said(VersionState.READY)) == ours


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a=b", ".hidden"])
def test_names_that_are_no_folder_names_are_refused(name):
    with pytest.raises(InvalidRequest):
        source_for(name, "s3://bucket/m")


@pytest.fixture
def source(tmp_path):
    version = tmp_path / "source" / "7"
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"graph")
    (version / "variables" / "data").write_bytes(b"weights")
    return tmp_path / "source"


async def test_a_version_is_placed_whole_and_removed(tmp_path, source):
    shared = SharedVersions(tmp_path / "shared", LocalFolders())
    uri = source_for("m", source.as_uri())
    assert await shared.list_versions(uri) == [7]
    lease = await shared.fetch(uri, 7, lambda done, total: None)
    assert lease.path == tmp_path / "shared" / "m" / "7"
    assert (lease.path / "variables" / "data").read_bytes() == b"weights"
    # Linked, not copied: a model of many gigabytes lies on the disk once.
    inode = (source / "7" / "saved_model.pb").stat().st_ino
    assert (lease.path / "saved_model.pb").stat().st_ino == inode
    lease.release()
    lease.release()
    assert not lease.path.exists()
    assert (source / "7" / "saved_model.pb").exists()


async def test_a_folder_that_cannot_be_written_says_so(tmp_path, source):
    shared = SharedVersions(tmp_path / "shared", LocalFolders())
    (tmp_path / "shared" / "m").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be placed"):
        await shared.fetch(source_for("m", source.as_uri()), 7, lambda done, total: None)


def test_the_folder_is_emptied_at_start_but_only_when_it_is_ours(tmp_path):
    SharedVersions(tmp_path / "s", LocalFolders())
    (tmp_path / "s" / "m" / "1").mkdir(parents=True)
    SharedVersions(tmp_path / "s", LocalFolders())
    assert [p.name for p in (tmp_path / "s").iterdir()] == [MARKER]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(FolderNotOurs, match="--shared-dir"):
        SharedVersions(tmp_path / "other", LocalFolders())
    assert (tmp_path / "other" / "photo.jpg").exists()


def test_a_link_in_the_folder_is_removed_and_not_followed(tmp_path):
    SharedVersions(tmp_path / "s", LocalFolders())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "s" / "m").symlink_to(tmp_path / "outside")
    SharedVersions(tmp_path / "s", LocalFolders())
    assert (tmp_path / "outside" / "file").exists()


def test_tensorflow_servings_command_line():
    settings = ChildSettings("tensorflow_model_server", ("--v=1",))
    assert command(settings, 8500, 8501, Path("/tmp/models.config")) == [
        "tensorflow_model_server",
        "--port=8500",
        "--rest_api_port=8501",
        "--model_config_file=/tmp/models.config",
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=1",
        "--v=1",
    ]
