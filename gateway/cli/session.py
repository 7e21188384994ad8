"""What every command shares: the address it talks to, running coroutines, spelling of nouns.

Kept light: this module is imported for `gateway --help`, so asyncio, aiohttp and rich wait inside
the functions that need them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

DEFAULT_URL = "http://127.0.0.1:8080"
_T = TypeVar("_T")


class Session:
    """One run of the command line."""

    def __init__(self, url: str | None, config_file: Path | None) -> None:
        self._url = url
        self._config_file = config_file

    def use(self, url: str) -> None:
        """Talk to `url`, whatever was said before."""
        self._url = url

    @property
    def url(self) -> str:
        """The control API's address: flag, GATEWAY_URL, config file, default, in that order."""
        return self._url or self._configured("url") or DEFAULT_URL

    def _configured(self, key: str) -> str | None:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        path = self._config_file or home / "gateway" / "config.toml"
        value = read_toml(path, must_exist=self._config_file is not None).get(key)
        if value is not None and not isinstance(value, str):
            raise click.UsageError(f'{path}: `{key}` must be text, like "{DEFAULT_URL}"')
        return value

    def control(self) -> ControlClient:
        """A client of the control API."""
        from gateway.client.control import ControlClient

        return ControlClient(self.url)

    def call(self, work: Callable[[ControlClient], Awaitable[_T]]) -> _T:
        """Run `work` with a client, and close it."""

        async def whole() -> _T:
            async with self.control() as control:
                return await work(control)

        return run_async(whole())


def _use_url(context: click.Context, _: click.Parameter, url: str | None) -> None:
    session = context.find_object(Session)
    if url and session is not None:
        session.use(url)


url_option = click.option(
    "--url",
    metavar="URL",
    expose_value=False,
    callback=_use_url,
    help="Address of the control API (also before the verb, and GATEWAY_URL).",
)
"""`--url` where people type it last, as well as before the verb."""


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """asyncio.run, but for a lone error in a group, which is raised as itself."""
    import asyncio

    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


def read_toml(path: Path, *, must_exist: bool) -> dict[str, Any]:
    """A TOML file's table; empty when it may be missing and is."""
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise click.UsageError(f"{path} does not exist") from None
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


class NounGroup(click.Group):
    """A verb whose nouns may be written in singular or plural: `deploy model`, `deploy models`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command for a noun in either number."""
        return super().get_command(ctx, cmd_name) or super().get_command(
            ctx, cmd_name.removesuffix("s")
        )


_UNITS = {
    "": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip


class Size(click.ParamType):  # type: ignore[type-arg] # generic in newer clicks only
    """Bytes, written `4096`, `512MB`, `2GiB` or `1.5Gi`; at least one."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes; click's usage error, naming the option, for anything else."""
        if isinstance(value, int):
            return value
        found = _size(str(value))
        if found is None:
            self.fail(f"{value!r} is no size: write 4096, 512MB or 2GiB", param, ctx)
        return found


size = Size()


def _size(text: str) -> int | None:
    shown = re.fullmatch(r"(\d{1,20}(?:\.\d{1,9})?)\s*([kmgt]?i?)b?", text.strip(), re.I | re.A)
    unit = _UNITS.get(shown[2].lower()) if shown else None
    value = int(float(shown[1]) * unit) if shown and unit else 0
    return value if 1 <= value < 2**60 else None
