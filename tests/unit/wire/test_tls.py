"""Certificate files: what is wrong with them is said, with the flag."""

from __future__ import annotations

import subprocess

import pytest

from gateway.domain.errors import InvalidRequest
from gateway.wire.tls import CertificateFiles
from tests.parts.certificates import self_signed


def test_files_that_cannot_be_read_are_named(tmp_path):
    cert, key = self_signed(tmp_path)
    with pytest.raises(InvalidRequest, match=r"--tls-cert .*missing.crt cannot be read: No such"):
        CertificateFiles(tmp_path / "missing.crt", key)
    with pytest.raises(InvalidRequest, match=r"--tls-key .*missing.key cannot be read: No such"):
        CertificateFiles(cert, tmp_path / "missing.key")
    with pytest.raises(InvalidRequest, match=r"--tls-key .* cannot be read: Is a directory"):
        CertificateFiles(cert, tmp_path)


def test_files_that_do_not_belong_together_are_named(tmp_path):
    cert, _ = self_signed(tmp_path, "a")
    _, key = self_signed(tmp_path, "b")
    with pytest.raises(InvalidRequest, match=r"b\.key is not the key of .*a\.crt"):
        CertificateFiles(cert, key)


def test_what_is_no_pem_is_said(tmp_path):
    cert, key = self_signed(tmp_path)
    with pytest.raises(InvalidRequest, match="are no certificate and key in PEM"):
        CertificateFiles(key, key)
    cert.write_text("")
    with pytest.raises(InvalidRequest, match="are no certificate and key in PEM"):
        CertificateFiles(cert, key)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(tmp_path):
    cert, key = self_signed(tmp_path)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(InvalidRequest, match=r"locked\.key is encrypted"):
        CertificateFiles(cert, locked)


def test_authorities_of_callers_must_be_readable_certificates(tmp_path):
    cert, key = self_signed(tmp_path)
    with pytest.raises(InvalidRequest, match=r"--tls-client-ca .*ca.crt cannot be read: No such"):
        CertificateFiles(cert, key, tmp_path / "ca.crt")
    with pytest.raises(InvalidRequest, match=r"--tls-client-ca .* holds no certificate"):
        CertificateFiles(cert, key, key)


def test_what_could_not_be_read_again_leaves_the_context_as_it_was(tmp_path):
    cert, key = self_signed(tmp_path)
    files = CertificateFiles(cert, key, cert)
    before = files.context
    cert.write_text("")
    with pytest.raises(InvalidRequest, match="are no certificate and key in PEM"):
        files.reload()
    assert files.context is before
