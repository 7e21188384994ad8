"""Header blocks: what is let through, what is remembered, and that the decoder never panics."""

import random

import pytest
from jh2._hazmat import Encoder

from gateway.wire.fields import hpack_field, hpack_int
from gateway.wire.h2_frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, H2Error
from gateway.wire.hpack import BlockReader, keep

BAD_BLOCKS = {
    "index 0": b"\x80",
    "an index beyond the tables": b"\xff\x80\x01",
    "a literal without anything": b"\x40",
    "a name that is cut short": b"\x40\x05abc",
    "a value that is cut short": b"\x00\x01a\x05abc",
    "a length that is cut short": b"\x00\x7f\x80",
    "an integer without end": b"\xff" + b"\x80" * 12,
    "a length without end": b"\x00\x7f" + b"\xff" * 12,
    "a resize after a field": b"\x82\x20",
    "a resize beyond what we allow": b"\x3f\xe1\xff\x03",
    "a Huffman code padded by zeros": b"\x00\x01a\x83\x1c\x64\x00",
    "Huffman padding of a byte": b"\x00\x01a\x82\x1f\xff",
    "Huffman's end of string": b"\x00\x01a\x84\xff\xff\xff\xff",
}


@pytest.mark.parametrize("block", BAD_BLOCKS.values(), ids=BAD_BLOCKS)
def test_a_bad_block_ends_the_connection(block):
    with pytest.raises(H2Error) as caught:
        BlockReader(16384).read(block)
    assert caught.value.code == COMPRESSION_ERROR


def test_random_blocks_raise_nothing_else():
    rng, codes = random.Random(7), set()
    for _ in range(3000):
        reader = BlockReader(16384)
        try:
            reader.read(rng.randbytes(rng.randrange(40)))
        except H2Error as error:
            codes.add(error.code)
    assert codes <= {COMPRESSION_ERROR, ENHANCE_YOUR_CALM}


def test_what_an_encoder_with_a_table_and_huffman_writes_is_read():
    encoder, reader = Encoder(), BlockReader(16384)
    fields = [(b":path", b"/a/b"), (b"x-id", b"1234567"), (b"x-\xc3\xa4", bytes(range(32, 256)))]
    for _ in range(3):
        block = encoder.encode([(n, v, False) for n, v in fields])
        assert reader.read(block)[0] == fields


def test_a_block_may_be_kept_if_it_leaves_the_table_as_it_is():
    reader = BlockReader(16384)
    assert reader.read(hpack_field("x-a", "1") + b"\x82")[1] is True
    assert reader.read(b"\x40\x01a\x01b")[1] is False
    assert reader.read(b"\x20\x82")[1] is False
    assert reader.read(b"\x10\x01a\x01b")[1] is True


def test_only_short_blocks_that_mean_short_lists_may_be_kept():
    reader = BlockReader(16384)
    assert reader.read(hpack_field("x-a", "v" * 1900))[1] is True
    assert reader.read(hpack_field("x-a", "v" * 2100))[1] is False
    reader.read(b"\x40\x01a" + hpack_int(1500, 7) + b"x" * 1500)
    assert reader.read(b"\xbe\xbe")[1] is True
    assert reader.read(b"\xbe\xbe\xbe")[1] is False


def test_an_insertion_forgets_what_was_kept():
    reader = BlockReader(16384)
    reader.read(b"\x40\x01a\x01b")
    keep(reader.kept, b"\xbe", "means a: b")
    keep(reader.kept_tails, b"\xbe", "means a: b")
    reader.read(b"\x40\x01c\x01d")
    assert not reader.kept
    assert not reader.kept_tails
    assert reader.read(b"\xbe")[0] == [(b"c", b"d")]


def test_what_is_kept_is_bounded():
    kept = {}
    for n in range(1000):
        keep(kept, b"%d" % n, n)
    assert len(kept) <= 64


def test_a_bomb_is_refused():
    # One entry of 4 KB in the table, and a byte for each time that it is meant.
    entry = b"\x40\x01a" + hpack_int(4000, 7) + b"x" * 4000
    reader = BlockReader(16384)
    with pytest.raises(H2Error) as caught:
        reader.read(entry + b"\xbe" * 10_000)
    assert caught.value.code == ENHANCE_YOUR_CALM
    assert caught.value.cause == "head_too_large"
