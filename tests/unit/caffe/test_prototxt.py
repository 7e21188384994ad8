"""Reading protobuf's text format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.caffe.prototxt import MAX_DEPTH, Message, ParseError, Word, parse, write


def test_numbers_strings_enums_and_messages():
    tree = parse(b'a: -1.5e-3 b: 7 c: "x" d: MAX e { f: true } g: { h: 1 } i < j: 2 >')
    assert tree.text("a") == "-1.5e-3"
    assert tree.integers("b") == [7]
    assert tree.fields[2] == ("c", Word("x", is_string=True))
    assert tree.text("d") == "MAX"
    assert [tree.messages(n)[0].fields[0][0] for n in "egi"] == ["f", "h", "j"]


def test_lists_are_repeated_fields():
    assert parse(b"dim: [1, 2, 3]").integers("dim") == [1, 2, 3]
    assert len(parse(b"layer: [{ name: 'a' }, { name: 'b' }]").messages("layer")) == 2
    assert parse(b"dim: []").fields == ()


def test_comments_and_separators_are_skipped():
    tree = parse(b'a: 1, # one { " \n b: 2; c: "# no comment" # end')
    assert (tree.text("a"), tree.text("b"), tree.text("c")) == ("1", "2", "# no comment")


def test_strings_know_escapes_and_join_neighbours():
    assert parse(rb'a: "x\n\"\101\x42" ' + rb"'y'").text("a") == 'x\n"ABy'
    assert parse('a: "ü\\303\\274"'.encode()).text("a") == "üü"


def test_a_singular_field_given_twice_is_the_last():
    assert parse(b"a: 1 a: 2").text("a") == "2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"layer {\n  name: 'x'\n", "line 3: a field name is missing before 'the end of the file'"),
        (b"a: 1\nb\nc: 2", "line 3: ':' or '{' is missing before 'c'"),
        (b"a:\n}", "line 2: a value is missing before '}'"),
        (b"}", "line 1: a field name is missing"),
        (b'a: "open\nb: 1', "line 1: "),
        (b"a: [1 2]", "',' or ']' is missing"),
        (b"a: \xff", "not UTF-8"),
        (b"[ext.field]: 1", "a field name is missing"),
        (b"a { " * (MAX_DEPTH + 2), "nested more than"),
    ],
)
def test_what_is_broken_is_named_with_its_line(text, words):
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert words in str(caught.value)


names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
words = st.one_of(
    st.builds(Word, st.text(st.characters(exclude_categories=["Cs"])), st.just(True)),
    st.builds(Word, st.integers().map(str)),
    st.builds(Word, st.floats(allow_nan=False, allow_infinity=False).map(repr)),
)
messages = st.recursive(
    st.just(Message()),
    lambda inner: st.lists(st.tuples(names, st.one_of(words, inner)), max_size=4).map(
        lambda fields: Message(tuple(fields))
    ),
    max_leaves=12,
)


@given(messages)
def test_what_is_written_is_read_back(message):
    assert parse(write(message).encode()) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        parse(data)
    except ParseError:
        return
