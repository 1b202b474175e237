"""`Client` and `AsyncClient`: one method a call, the same for REST and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from servekit.client import flows
from servekit.client.address import is_grpc
from servekit.client.answers import Class, Metadata, ModelStatus, Prediction
from servekit.client.deadline import Deadline
from servekit.client.flows import Flow, Inputs, MetadataCache
from servekit.client.wire import AsyncTransport, Examples, Feature, Transport
from servekit.errors import Code, StatusError
from servekit.model_spec import ModelSpec

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0
"""TF Serving's own `--rest_api_timeout_in_ms`."""


class Client:
    """A model server at `url`: http://HOST:8501 speaks REST, grpc://HOST:8500 speaks gRPC (https, grpcs for TLS).

    May be shared between threads. Every method takes a model's name or a ModelSpec (version, label, signature), and
    `timeout_s`, the time until it gives up with DEADLINE_EXCEEDED. Every method raises StatusError with the server's
    code and text, and Unreachable when nobody answers. `transport` replaces the one that the URL stands for.

    A model's signatures are read once and again after an error: REST answers have neither dtypes nor the name of a
    single output. When a label moves to a version with other signatures, make a new client.
    """

    def __init__(
        self, url: str = "", *, timeout_s: float = DEFAULT_TIMEOUT_S, transport: Transport | None = None
    ) -> None:
        self._transport = transport or _transport(url)
        self._timeout_s = timeout_s
        self._signatures: MetadataCache = {}

    def predict(
        self,
        model: str | ModelSpec,
        inputs: Inputs,
        *,
        output_filter: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """`inputs`: arrays, lists, numbers or bytes by input name; without names where the signature has one input.

        Values are cast to the signature's dtype when that keeps their kind. `output_filter` names the outputs wanted.
        """
        spec, wire = _spec(model), self._transport.wire
        return self._run(flows.predict(wire, self._signatures, spec, inputs, output_filter), timeout_s)

    def classify(
        self,
        model: str | ModelSpec,
        examples: Examples,
        *,
        context: Mapping[str, Feature] | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Class]]:
        """One list of classes for each example (features by name; `context` holds those that all examples share)."""
        return self._run(flows.one(self._transport.wire.classify(_spec(model), examples, context or {})), timeout_s)

    def regress(
        self,
        model: str | ModelSpec,
        examples: Examples,
        *,
        context: Mapping[str, Feature] | None = None,
        timeout_s: float | None = None,
    ) -> list[float]:
        """One value for each example."""
        return self._run(flows.one(self._transport.wire.regress(_spec(model), examples, context or {})), timeout_s)

    def status(self, model: str | ModelSpec, *, timeout_s: float | None = None) -> ModelStatus:
        """All versions that the server knows; a label in the spec is ignored by the server."""
        return self._run(flows.one(self._transport.wire.status(_spec(model))), timeout_s)

    def metadata(self, model: str | ModelSpec, *, timeout_s: float | None = None) -> Metadata:
        """The signatures, and the version that the spec (its label, or no version at all) stands for."""
        return self._run(flows.metadata(self._transport.wire, self._signatures, _spec(model)), timeout_s)

    def reload_config(self, config: Any, *, timeout_s: float | None = None) -> None:
        """Replaces the whole configuration by a `messages.ModelServerConfig`; gRPC only.

        The server's next poll of its --model_config_file overrides it again.
        """
        self._run(flows.one(self._transport.wire.reload_config(config)), timeout_s)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, flow: Flow[T], timeout_s: float | None) -> T:
        deadline = Deadline.after(self._timeout_s if timeout_s is None else timeout_s)
        try:
            call = next(flow)
            while True:
                try:
                    answer = self._transport.send(call, deadline)
                except StatusError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited."""

    def __init__(
        self, url: str = "", *, timeout_s: float = DEFAULT_TIMEOUT_S, transport: AsyncTransport | None = None
    ) -> None:
        self._transport = transport or _async_transport(url)
        self._timeout_s = timeout_s
        self._signatures: MetadataCache = {}

    async def predict(
        self,
        model: str | ModelSpec,
        inputs: Inputs,
        *,
        output_filter: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        spec, wire = _spec(model), self._transport.wire
        return await self._run(flows.predict(wire, self._signatures, spec, inputs, output_filter), timeout_s)

    async def classify(
        self,
        model: str | ModelSpec,
        examples: Examples,
        *,
        context: Mapping[str, Feature] | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Class]]:
        call = self._transport.wire.classify(_spec(model), examples, context or {})
        return await self._run(flows.one(call), timeout_s)

    async def regress(
        self,
        model: str | ModelSpec,
        examples: Examples,
        *,
        context: Mapping[str, Feature] | None = None,
        timeout_s: float | None = None,
    ) -> list[float]:
        call = self._transport.wire.regress(_spec(model), examples, context or {})
        return await self._run(flows.one(call), timeout_s)

    async def status(self, model: str | ModelSpec, *, timeout_s: float | None = None) -> ModelStatus:
        return await self._run(flows.one(self._transport.wire.status(_spec(model))), timeout_s)

    async def metadata(self, model: str | ModelSpec, *, timeout_s: float | None = None) -> Metadata:
        return await self._run(flows.metadata(self._transport.wire, self._signatures, _spec(model)), timeout_s)

    async def reload_config(self, config: Any, *, timeout_s: float | None = None) -> None:
        await self._run(flows.one(self._transport.wire.reload_config(config)), timeout_s)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T], timeout_s: float | None) -> T:
        deadline = Deadline.after(self._timeout_s if timeout_s is None else timeout_s)
        try:
            call = next(flow)
            while True:
                try:
                    answer = await self._transport.send(call, deadline)
                except StatusError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value


def _spec(model: str | ModelSpec) -> ModelSpec:
    spec = ModelSpec(model) if isinstance(model, str) else model
    if spec.version is not None and spec.version_label is not None:
        raise StatusError(Code.INVALID_ARGUMENT, f"{spec.name}: give a version or a label, not both")
    return spec


# The protocol's library is imported only when its protocol is spoken.
def _transport(url: str) -> Transport:
    if is_grpc(url):
        from servekit.client.grpc_transport import GrpcTransport

        return GrpcTransport(url.rstrip("/"))
    from servekit.client.rest_transport import RestTransport

    return RestTransport(url.rstrip("/"))


def _async_transport(url: str) -> AsyncTransport:
    if is_grpc(url):
        from servekit.client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(url.rstrip("/"))
    from servekit.client.rest_transport import AsyncRestTransport

    return AsyncRestTransport(url.rstrip("/"))
