"""Ready-made client code: what is to be asked (`plan`), and how each language says it (`code`)."""

from __future__ import annotations

from gateway.cli.snippets import curl, go, javascript, python
from gateway.cli.snippets.asking import Plan, plan

__all__ = ["Plan", "code", "plan"]

_LANGUAGES = {
    "python": python.sdk,
    "stdlib": python.stdlib,
    "curl": curl.script,
    "go": go.program,
    "javascript": javascript.module,
}


def code(what: Plan, language: str) -> str:
    """Source text that ends with a newline; `language` is one of _LANGUAGES."""
    return _LANGUAGES[language](what)
