"""What both V2 fronts offer, on domain values. The fronts only translate.

Repository control on a server whose models came by HandleReloadConfigRequest (a gateway's replica,
as a rule) may ask for another try of what is configured; it cannot unload: whoever configured the
model would bring it back at its next look, and meanwhile miss it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from gateway.codecs import oip_classes
from gateway.codecs.oip_errors import Flavour, model_not_ready, model_unknown
from gateway.codecs.oip_json import OipInfer
from gateway.domain.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GatewayError,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unavailable,
    Unimplemented,
)
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.tensors import Signature
from servers.kit import checks, logs, oip_checks
from servers.kit.oip_settings import Settings
from servers.kit.runtime import Arrays
from servers.kit.servable import Servable
from servers.kit.service import Checked, Service
from servers.kit.timing import Spent

_MAX_TIMEOUT_US = 10**15
_ON_ITS_WAY = (VersionState.NEW, VersionState.FETCHING, VersionState.LOADING)


@dataclass(frozen=True, slots=True)
class Made:
    """An answer: outputs in the order asked for, and what made them."""

    servable: Servable
    outputs: Arrays
    spent: Spent


class OipService:
    """One server in the words of the Open Inference Protocol."""

    def __init__(self, service: Service, flavour: Flavour) -> None:
        self.service = service
        self.flavour = flavour
        self.settings = Settings()

    # ---- what is here --------------------

    def find(self, name: str, version: Version | None) -> Servable:
        """The servable that a request means.

        Raises:
            NotFound: no such model or version, or an unloaded one.
            Unavailable: it is known and does not answer now (`version_loading`, `version_failed`).
        """
        manager = self.service.manager
        try:
            return manager.find(name, version)
        except NotFound as error:
            known = manager.overview().get(name)
            if known is None:
                raise model_unknown(self.flavour, name) from error
            raise self._absent(name, version, known) from error

    def _absent(
        self, name: str, version: Version | None, known: list[VersionStatus]
    ) -> GatewayError:
        meant = [s for s in known if version in (None, s.version)]
        if any(s.state in _ON_ITS_WAY for s in meant):
            return model_not_ready(self.flavour, name, version, retry_after_s=1.0)
        if any(s.state is VersionState.FAILED for s in meant):
            return model_not_ready(self.flavour, name, version, reason="version_failed")
        if version is not None or self.flavour is Flavour.KSERVE:
            return model_unknown(self.flavour, name, version)
        if not meant and not self.service.manager.is_unloaded(name):
            return model_not_ready(self.flavour, name, retry_after_s=1.0)  # not looked at yet
        return NotFound(
            f"Request for unknown model: '{name}' has no available versions",
            reason="version_unknown",
        )

    def is_ready(self) -> bool:
        """Whether every model that is asked for has a version that answers, and nothing ends."""
        if self.service.is_draining:
            return False
        overview = self.service.manager.overview()
        return all(
            any(status.state is VersionState.READY for status in overview.get(name, ()))
            for name in self.service.manager.configured
            if not self.service.manager.is_unloaded(name)
        )

    def is_model_ready(self, name: str, version: Version | None) -> bool:
        """Whether `find` would find it."""
        try:
            self.find(name, version)
        except GatewayError:
            return False
        return not self.service.is_draining

    def ready_versions(self, name: str) -> list[Version]:
        """Versions that answer, oldest first."""
        known = self.service.manager.overview().get(name, [])
        return sorted(s.version for s in known if s.state is VersionState.READY)

    def index(self, only_ready: bool) -> dict[str, list[VersionStatus]]:
        """Every version of every model, or those that answer."""
        overview = self.service.manager.overview()
        if not only_ready:
            return overview
        ready = {
            name: [s for s in statuses if s.state is VersionState.READY]
            for name, statuses in overview.items()
        }
        return {name: statuses for name, statuses in ready.items() if statuses}

    def counted(self, name: str, version: Version | None) -> list[Servable]:
        """The servables whose statistics are asked for: one, a model's, or all ("" as its name).

        Raises:
            NotFound, Unavailable: as `find`.
        """
        if name:
            self.find(name, version)
        names = [name] if name else sorted(self.service.manager.overview())
        return [
            self.service.manager.find(each, ready)
            for each in names
            for ready in self.ready_versions(each)
            if version in (None, ready)
        ]

    # ---- inference --------------------

    async def infer(
        self,
        servable: Servable,
        asked: OipInfer,
        given: Arrays,
        deadline_at: float,
        form: object = None,
    ) -> Made:
        """Check one request and run it. `given` are its tensors, `form` stands for all requests
        that say the same.

        Raises:
            InvalidRequest: signature, names, datatypes or shapes are wrong, or the runtime refused.
            Unavailable: its `timeout` has passed while it waited.
            Overloaded, DeadlineExceeded, Internal: see `Batcher.run`.
        """
        model = servable.name
        checked: Checked | None = None if form is None else servable.checked.get(form)
        inputs = given
        if checked is None:
            inputs, checked = _check(servable, asked, given)
            if form is not None and inputs.keys() == given.keys():
                servable.remember(form, checked)
        outputs = checked.outputs
        begun = perf_counter()
        made = await self._run(servable, checked, inputs, asked, deadline_at)
        spent = servable.batcher.spent
        made = {output: made[output] for output in outputs}
        if levels := self.settings.traced(model):
            _trace(levels, servable, asked.id, inputs, made, perf_counter() - begun)
        if asked.outputs and any(output.classification for output in asked.outputs):
            made = await self._classified(servable, asked, made)
        return Made(servable, made, spent)

    async def _run(
        self,
        servable: Servable,
        checked: Checked,
        inputs: Arrays,
        asked: OipInfer,
        deadline_at: float,
    ) -> Arrays:
        timeout_s = timeout_of(asked.parameters) if asked.parameters else None
        until = deadline_at
        if timeout_s is not None:
            until = min(until, asyncio.get_running_loop().time() + timeout_s)
        try:
            return await servable.predict(
                checked.signature, inputs, checked.outputs, checked.rows, until
            )
        except Overloaded as error:
            raise Overloaded(
                f"Exceeds maximum queue size: {error.message}",
                reason=error.reason,
                retry_after_s=error.retry_after_s,
            ) from error
        except DeadlineExceeded as error:
            if until < deadline_at and error.reason == "queue":
                raise Unavailable("Request timeout expired", reason="timeout") from error
            raise

    async def _classified(self, servable: Servable, asked: OipInfer, made: Arrays) -> Arrays:
        loaded = servable.loaded
        has_rows = loaded.batchable or loaded.fixed_batch is not None
        counts = {output.name: output.classification for output in asked.outputs}

        def classes() -> Arrays:
            return {
                name: oip_classes.top(name, array, counts[name], has_rows=has_rows)
                if counts[name]
                else array
                for name, array in made.items()
            }

        return await self.service.off_loop(sum(a.nbytes for a in made.values()), classes)

    def raw_signature(self, servable: Servable) -> Signature | None:
        """What a request without names and shapes (header length 0) is read by."""
        try:
            return oip_checks.signature_of(servable.signatures, servable.name)[1]
        except InvalidRequest:
            return None

    # ---- repository control --------------------

    async def load(self, repository: str, name: str, parameters: Mapping[str, object]) -> None:
        """Load, or try again, a model that is configured here.

        Raises:
            Unimplemented: another repository, or a configuration or files sent along.
            NotFound: no model of that name is configured.
            Internal: no version could be loaded; the message has the reason of each.
        """
        self.check_repository(repository)
        if parameters:
            raise Unimplemented(
                f"cannot load '{name}' with parameters {', '.join(sorted(parameters))[:256]}: "
                "models come from their folder or bucket only; publish a version there, then load",
                reason="load_parameters",
            )
        self._known(name, "load")
        await self.service.manager.load(name)
        self.service.refuse_if_draining()
        if not self.ready_versions(name):
            raise Internal(
                f"failed to load '{name}', no version is available: {self._why(name)}",
                reason="load_failed",
            )

    async def unload(self, repository: str, name: str) -> None:
        """Take a model out until it is loaded again. Returns once nothing new reaches it.

        Raises:
            Unimplemented: another repository.
            NotFound: no model of that name is configured.
            FailedPrecondition: its configuration is somebody else's.
        """
        self.check_repository(repository)
        self._known(name, "unload")
        if self.service.is_steered:
            raise FailedPrecondition(
                f"failed to unload '{name}', explicit model load / unload is not allowed here: "
                "this server's models are configured through HandleReloadConfigRequest; ask the "
                "gateway, or whoever sends those",
                reason="steered",
            )
        await self.service.manager.unload(name)

    def check_repository(self, repository: str) -> None:
        """Raise Unimplemented for a repository by name: there is one."""
        if repository:
            raise Unimplemented(
                "'repository_name' specification is not supported", reason="repository_name"
            )

    def check_configured(self, name: str) -> None:
        """Raise NotFound unless a model of that name is configured: only those have settings."""
        if name not in self.service.manager.configured:
            raise model_unknown(self.flavour, name)

    def _known(self, name: str, deed: str) -> None:
        if name not in self.service.manager.configured:
            raise NotFound(
                f"failed to {deed} '{name}', no model of that name is configured here; start the "
                "server with --model NAME=URI, or deploy it through the gateway",
                reason="model_unknown",
            )

    def _why(self, name: str) -> str:
        known = self.service.manager.overview().get(name, [])
        failed = [f"version {s.version}: {s.reason}" for s in known if s.reason]
        return "; ".join(failed) or self.service.manager.source_reason(name) or "none was found"


def _check(servable: Servable, asked: OipInfer, given: Arrays) -> tuple[Arrays, Checked]:
    model = servable.name
    wanted = asked.parameters.get("signature_name")
    name, signature = oip_checks.signature_of(servable.signatures, model, wanted)
    inputs = oip_checks.inputs_of(model, signature, given)
    outputs = oip_checks.outputs_of(model, signature, [o.name for o in asked.outputs])
    return inputs, Checked(name, outputs, checks.rows_of(servable.loaded, inputs))


def timeout_of(parameters: Mapping[str, object]) -> float | None:
    """Seconds of the request parameter `timeout` (microseconds; 0 is none).

    Raises:
        InvalidRequest: it is no whole number of at least 0 (`bad_timeout`).
    """
    given = parameters.get("timeout")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _MAX_TIMEOUT_US:
        raise InvalidRequest(
            f"parameter 'timeout' must be whole microseconds of at least 0, was {given!r:.64}",
            reason="bad_timeout",
        )
    return given / 1e6 if given else None


def _trace(
    levels: Sequence[str],
    servable: Servable,
    request_id: str,
    inputs: Arrays,
    outputs: Arrays,
    took_s: float,
) -> None:
    fields: dict[str, str | int] = {"id": request_id[:128]}
    if "TIMESTAMPS" in levels:
        fields["run_us"] = round(took_s * 1e6)
    if "TENSORS" in levels:
        fields["inputs"] = _forms(inputs)
        fields["outputs"] = _forms(outputs)
    logs.event(
        "request.traced", logging.INFO, model=servable.name, version=servable.version, **fields
    )


def _forms(arrays: Arrays) -> str:
    return " ".join(f"{n}:{a.dtype}{list(a.shape)}" for n, a in arrays.items())
