"""When the certificate files are read again."""

from __future__ import annotations

import pytest

from gateway.dataplane.certificates import Certificates, certificate_files
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.errors import InvalidRequest
from gateway.wire.listener import Listener
from tests.parts.certificates import self_signed


class World:
    def __init__(self, folder):
        self.folder = folder
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.replace("first")
        files = certificate_files(DataplaneSettings(tls_cert=str(self.cert), tls_key=str(self.key)))
        assert files is not None
        self.listener = Listener(None, tls=files.context)
        self.certificates = Certificates(files, self.listener)

    def replace(self, name, *, key=True):
        """As programs that renew do it: a file beside it, renamed over it."""
        for made, path in zip(self_signed(self.folder, name), (self.cert, self.key), strict=True):
            if key or path is self.cert:
                made.replace(path)

    def looks(self, times):
        """Which looks led to another context."""
        seen = []
        for _ in range(times):
            before = self.listener.tls
            self.certificates.look()
            seen.append(self.listener.tls is not before)
        return seen


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_files_that_stay_as_they_are_are_read_once(world):
    assert world.looks(4) == [False] * 4


def test_changed_files_are_read_once_when_they_have_stood_still_for_a_look(world):
    world.looks(1)
    world.replace("second")
    assert world.looks(4) == [False, True, False, False]


def test_files_that_are_being_written_are_left_alone(world):
    world.looks(1)
    world.replace("second", key=False)
    assert world.looks(1) == [False]
    world.replace("second")
    assert world.looks(3) == [False, True, False]


def test_files_that_do_not_fit_are_tried_again_only_when_they_change(world, caplog):
    world.looks(1)
    world.replace("second", key=False)
    assert world.looks(5) == [False] * 5
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["tls.reload_failed"]
    world.replace("third")
    assert world.looks(3) == [False, True, False]


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(world):
    world.looks(1)
    world.cert.unlink()
    assert world.looks(3) == [False] * 3
    world.replace("second")
    assert world.looks(3) == [False, True, False]


def test_reading_on_demand_counts_as_having_looked(world):
    world.replace("second")
    before = world.listener.tls
    world.certificates.reload()
    assert world.listener.tls is not before
    assert world.looks(3) == [False] * 3


def test_what_cannot_be_read_on_demand_is_said_and_the_old_stays(world):
    before = world.listener.tls
    world.key.write_text("nothing")
    with pytest.raises(InvalidRequest, match="are no certificate and key in PEM"):
        world.certificates.reload()
    assert world.listener.tls is before
