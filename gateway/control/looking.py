"""Look at a source before a model is stored, so that a slip of the pen is refused at once.

What is merely not there *yet* is no error: a version that is still being uploaded is accepted and
the lifecycle waits for it to settle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.control.backends import RECOGNISED, backend_of, shown
from gateway.control.quantities import policy_text
from gateway.domain.errors import InvalidRequest, Unavailable
from gateway.domain.models import All, Backend, Latest, ModelSpec, Specific
from gateway.domain.names import Version
from gateway.ports import Listing, VersionSource


@dataclass(frozen=True, slots=True)
class LookSettings:
    """How long and how far a deploy looks."""

    timeout_s: float = 15.0
    """Seconds for all looks of one deploy. Object storage that answers at all does so in one or
    two; who waits for a prompt should know after fifteen."""

    versions: int = 5
    """Newest versions whose files are looked at to see the backend; older ones hardly differ."""


class SourceLook:
    """Looks once, bounded in time."""

    def __init__(self, source: VersionSource, settings: LookSettings | None = None) -> None:
        self._source = source
        self._settings = settings or LookSettings()

    async def check(
        self, spec: ModelSpec, *, named: bool, known: Backend | None = None
    ) -> ModelSpec:
        """Return `spec` with the backend that its files show.

        Where the backend was `named` by the caller the files must agree with it. `known` is what
        an existing model has: taken while the files do not show one yet.

        Raises:
            NotFound: `source_not_found`. Forbidden: `source_denied`. Unavailable:
            `source_unreachable`. InvalidRequest: `bad_source`, `source_empty`,
            `version_not_in_source`, `manifest_missing`, `backend_unknown`, `backend_mismatch`.
        """
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                listing = await self._source.look(spec.source, None)
                _check_versions(spec, listing)
                if Backend.CUSTOM in ((spec.backend,) if named else (known,)):
                    return spec  # its program knows its files
                return await self._with_backend(spec, listing, named, known)
        except TimeoutError as error:
            raise Unavailable(
                f"The source {spec.source} did not answer within {self._settings.timeout_s:g} s. "
                "Check its address and endpoint; nothing was stored.",
                reason="source_unreachable",
                retry_after_s=5.0,
            ) from error

    async def _with_backend(
        self, spec: ModelSpec, listing: Listing, named: bool, known: Backend | None
    ) -> ModelSpec:
        seen: list[str] = []
        for version in sorted(listing.versions, reverse=True)[: self._settings.versions]:
            files = listing.versions[version].files
            files = tuple(files or await self._source.files(spec.source, version))
            found = backend_of(files)
            if found is None:
                seen.append(f"version {version} has {shown(files)}")
            elif named and found is not spec.backend:
                raise InvalidRequest(
                    f"backend (--backend) is {spec.backend.value}, but version {version} of "
                    f"{spec.source} holds {shown(files)}, which is {found.value}. Leave backend "
                    "out, or point source (--source) at the right folder.",
                    reason="backend_mismatch",
                )
            else:
                return replace(spec, backend=found)
        uploading = not all(v.settled for v in listing.versions.values())
        if uploading and (named or known):
            return spec if known is None or named else replace(spec, backend=known)
        raise _unknown(spec, seen, uploading)


def _unknown(spec: ModelSpec, seen: Sequence[str], uploading: bool) -> InvalidRequest:
    advice = (
        "It may still be uploading: wait, or name the backend (--backend)."
        if uploading
        else "Put such files into the version, or use --backend custom with a command (--command)."
    )
    return InvalidRequest(
        f"The backend cannot be seen from the files of {spec.source}: {'; '.join(seen)}. "
        f"Recognised are {RECOGNISED}. {advice}",
        reason="backend_unknown",
    )


def aspired(spec: ModelSpec, listing: Listing) -> list[Version]:
    """What the policy wants of a listing, ascending, settled or not."""
    have = sorted(
        v for v, p in listing.versions.items() if p.has_manifest or not spec.require_manifest
    )
    match spec.policy:
        case Latest(count):
            return have[-count:]
        case All():
            return have
        case Specific(versions):
            return [v for v in versions if v in have]


def _check_versions(spec: ModelSpec, listing: Listing) -> None:
    have = listing.versions
    if not have:
        raise InvalidRequest(
            f"There is no version in {spec.source}: its children must be folders named by numbers, "
            f"as {spec.source}/1. `gateway publish DIR {spec.source}` puts one there.",
            reason="source_empty",
        )
    if isinstance(spec.policy, Specific):
        missing = [v for v in spec.policy.versions if v not in have]
        if missing:
            listed = ", ".join(str(v) for v in sorted(have)[-20:])
            raise InvalidRequest(
                f"versions (--versions) {policy_text(spec.policy)} names "
                f"{', '.join(map(str, missing[:20]))}, which {spec.source} does not have; "
                f"it has {listed}.",
                reason="version_not_in_source",
            )
    if spec.require_manifest and not aspired(spec, listing):
        raise InvalidRequest(
            f"require_manifest (--require-manifest) is set and no wanted version in {spec.source} "
            "has a manifest. Upload with `gateway publish`, or leave it out.",
            reason="manifest_missing",
        )
