from __future__ import annotations

from pathlib import Path

import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError

from gateway.domain.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from gateway.storage import Folder, locate, open_store
from gateway.storage.errors import translate
from gateway.storage.opening import Kind, _plain_http


@pytest.mark.parametrize(
    ("uri", "kind", "root", "prefix"),
    [
        ("s3://models", Kind.S3, "s3://models", ""),
        ("s3://models/a/b/", Kind.S3, "s3://models", "a/b"),
        ("S3://models//a", Kind.S3, "s3://models", "a"),
        ("gs://models/x y", Kind.GCS, "gs://models", "x y"),
        ("az://container/x", Kind.AZURE, "az://container/x", ""),
        ("file:///models/a%20b", Kind.LOCAL, "/models/a b", ""),
        ("file://localhost/models", Kind.LOCAL, "/models", ""),
        ("/models/a/../b/", Kind.LOCAL, "/models/b", ""),
    ],
)
def test_a_uri_is_taken_apart(uri, kind, root, prefix):
    location = locate(uri)
    assert (location.kind, location.root, location.prefix) == (kind, root, prefix)


def test_the_same_place_has_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("models").uri == locate(f"file://{tmp_path}/models/").uri
    assert locate("s3://m/a/").uri == locate("s3://m//a").uri


@pytest.mark.parametrize(
    "uri", ["", " ", "s3://", "s3:///x", "ftp://a/b", "file://host/x", "s3://m/../x", "/", "a\0b"]
)
def test_what_is_no_source_is_refused_with_words(uri):
    with pytest.raises(InvalidRequest) as caught:
        locate(uri)
    assert caught.value.reason == "bad_source"


def test_a_local_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound) as caught:
        open_store(str(tmp_path / "nope"))
    assert caught.value.reason == "source_not_found"
    assert str(tmp_path / "nope") in caught.value.message


def test_a_file_is_no_source(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(NotFound, match="is not a folder"):
        open_store(str(tmp_path / "f"))
    with pytest.raises(InvalidRequest):
        open_store(str(tmp_path / "f"), create=True)


async def test_a_local_folder_that_was_removed_is_said_to_be_gone(tmp_path):
    (tmp_path / "m").mkdir()
    folder = Folder(str(tmp_path / "m"))
    (tmp_path / "m").rmdir()
    with pytest.raises(NotFound):
        await folder.walk(limit=10)
    with pytest.raises(NotFound):
        await folder.children()


@pytest.mark.parametrize(
    ("environment", "plain"),
    [
        ({}, False),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, True),
        ({"AWS_ENDPOINT": "HTTP://x"}, True),
        ({"AWS_ENDPOINT_URL": "https://x"}, False),
        ({"AWS_ENDPOINT_URL": "https://x", "AWS_ALLOW_HTTP": "true"}, True),
    ],
)
def test_plain_http_is_allowed_only_where_it_was_asked_for(environment, plain):
    assert _plain_http(environment) is plain


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (PermissionDeniedError("x"), Forbidden, "source_denied"),
        (
            GenericError("list: status code: 403 Forbidden: <Code>AccessDenied</Code>"),
            Forbidden,
            "source_denied",
        ),
        (
            GenericError("PUT http://169.254.169.254/latest/api/token: refused"),
            Forbidden,
            "source_denied",
        ),
        (
            GenericError("status code: 404 Not Found: <Code>NoSuchBucket</Code>"),
            NotFound,
            "source_not_found",
        ),
        (FileNotFoundError("x"), NotFound, "source_not_found"),
        (GenericError("status code: 503 Slow Down"), Unavailable, "source_unreachable"),
        (GenericError("HTTP error: error sending request"), Unavailable, "source_unreachable"),
        (GenericError("HTTP error: builder error"), InvalidRequest, "bad_source"),
        (GenericError("Account must be specified"), InvalidRequest, "bad_source"),
        (ValueError("bad"), InvalidRequest, "bad_source"),
        (OSError(28, "No space left on device (os error 28)"), Unavailable, "disk_full"),
        (BaseError("something new"), Unavailable, "source_unreachable"),
    ],
)
def test_foreign_errors_become_ours(error, kind, reason):
    ours = translate(error, "s3://models/x", "read")
    assert type(ours) is kind
    assert ours.reason == reason
    assert "s3://models/x" in ours.message


def test_the_debug_dump_of_the_client_never_reaches_people():
    text = 'Generic S3 error: bad thing\n\nDebug source:\nGeneric { secret: "hunter2" }'
    assert "hunter2" not in translate(GenericError(text), "s3://m", "read").message


def test_the_repr_names_the_place_only(tmp_path):
    assert repr(Folder(str(tmp_path))) == f"Folder('file://{Path(tmp_path)}')"
