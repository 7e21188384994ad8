"""TFRecord files, whole and broken."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.errors import InvalidRequest
from servers.kit import tfrecord
from servers.kit.tfrecord import crc32c, read_records, write_record


def test_crc32c_of_the_published_check_values():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 / the CRC catalogue's check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def test_the_framing_is_tensorflows_byte_for_byte():
    # tf.io.TFRecordWriter's bytes for one record b"hello".
    assert write_record(b"hello").hex() == "0500000000000000eab2043e68656c6c6fbb1f1c19"


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=50), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("r") / "f"
    path.write_bytes(b"".join(map(write_record, records)))
    assert list(read_records(path)) == records


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: b[:5], "ends inside a record's length"),
        (lambda b: b[:-1], "ends inside it"),
        (lambda b: b"\x06" + b[1:], "length has a wrong checksum"),
        (lambda b: b[:12] + b"j" + b[13:], "data has a wrong checksum"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, spoil, words):
    path = tmp_path / "f"
    path.write_bytes(spoil(write_record(b"hello")))
    with pytest.raises(InvalidRequest, match=words):
        list(read_records(path))


def test_too_many_records_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "MAX_RECORDS", 2)
    path = tmp_path / "f"
    path.write_bytes(write_record(b"a") * 3)
    with pytest.raises(InvalidRequest, match="more than 2 records"):
        list(read_records(path))
