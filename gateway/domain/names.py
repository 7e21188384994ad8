"""Words with one meaning each, and what makes a name valid. The README's glossary defines them."""

from __future__ import annotations

import re

from gateway.domain.errors import InvalidRequest

INT64_MAX = 2**63 - 1

# A model's name appears in URLs, file names and metrics, so it is kept to what needs no escaping in
# any of them; 128 characters, as a file name with a suffix must stay below 255 bytes.
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,62}")

Version = int
"""A model's version: any integer from 0 to 2^63 - 1, as in TensorFlow Serving."""


def check_model_name(name: str) -> str:
    """Return `name` if a model may be called that.

    Raises:
        InvalidRequest: it is empty, too long, or has characters that URLs or file names mangle.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name a model: use 1 to 128 letters, digits, '_', '.' or '-', "
            "and begin with a letter, digit or '_'.",
            reason="bad_model_name",
        )
    return name


def check_label(label: str) -> str:
    """Return `label` if a version may carry it; else raise InvalidRequest."""
    if not _LABEL.fullmatch(label):
        raise InvalidRequest(
            f"{label!r} cannot be a version label: use 1 to 63 letters, digits, '_', '.' or '-'.",
            reason="bad_label",
        )
    return label


def parse_version(text: str) -> Version | None:
    """The version a directory's name means (`00000123` is 123), or None if it means none."""
    if not (text.isascii() and text.isdigit()):
        return None
    version = int(text) if len(text) <= 40 else INT64_MAX + 1
    return version if version <= INT64_MAX else None
