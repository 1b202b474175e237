"""What the checks share: each fact is gathered once, when the first check asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from servekit.config.rendered_files import CONTAINER_GRPC_PORT
from servekit.config.serving import Serving
from servekit.doctor import docker, model_folders, servers, serving_yaml, stack, tensorflow
from servekit.doctor.docker import DockerFacts
from servekit.doctor.model_folders import ModelFacts
from servekit.doctor.servers import EngineFacts
from servekit.doctor.serving_yaml import ConfigFacts
from servekit.doctor.stack import Container, Service, StackFacts
from servekit.doctor.tensorflow import ServerVersion
from servekit.engine import stack as engine_stack
from servekit.paths import Bundle

Value = TypeVar("Value")


class shared(Generic[Value]):  # noqa: N801 - used like property
    """A cached property for threads: the second one to ask waits for the first."""

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> shared[Value]: ...
    @overload
    def __get__(self, instance: Surroundings, owner: type) -> Value: ...
    def __get__(self, instance: Surroundings | None, owner: type) -> Value | shared[Value]:
        if instance is None:
            return self
        with instance.lock(self._name):
            if self._name not in instance.known:
                instance.known[self._name] = self._function(instance)
            value: Value = instance.known[self._name]
            return value


class Surroundings:
    """`engine`: auto, or the one that somebody means to use. `only_models`: names to look at; empty is all."""

    def __init__(self, bundle: Bundle, *, engine: str = "auto", only_models: frozenset[str] = frozenset()) -> None:
        self.bundle = bundle
        self.engine = engine
        self.only_models = only_models
        self.known: dict[str, Any] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._guard = threading.Lock()

    def lock(self, name: str) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(name, threading.RLock())

    @shared
    def config(self) -> ConfigFacts:
        return serving_yaml.gather(self.bundle)

    @property
    def serving(self) -> Serving | None:
        return self.config.serving

    @shared
    def docker(self) -> DockerFacts:
        return docker.gather()

    @shared
    def stack(self) -> StackFacts:
        command = self.docker.compose_command if self.docker.compose else None
        own = engine_stack.own_variables(self.bundle)
        variables = engine_stack.environment(self.serving, engine_stack.Options(), own) if self.serving else {}
        return stack.gather(self.bundle.root, command, variables, engine=self.docker.works)

    @shared
    def engines(self) -> EngineFacts:
        return servers.gather(
            self.bundle,
            docker_works=self.docker.works and bool(self.docker.compose),
            containers=[one.id for one in self.stack.containers if one.state == "running"],
        )

    @shared
    def models(self) -> list[ModelFacts]:
        return model_folders.gather(self.serving, self.bundle.models, self.only_models)

    @shared
    def all_models(self) -> list[ModelFacts]:
        """Whatever was asked for: they share the server's memory."""
        return model_folders.gather(self.serving, self.bundle.models) if self.only_models else self.models

    @property
    def container(self) -> Container | None:
        """The model server's, when it runs."""
        found = self.stack.server_container()
        return found if found and found.state == "running" else None

    @shared
    def in_containers(self) -> bool:
        """Whether the server is, or would be, the stack's."""
        if self.engine != "auto":
            return self.engine == "docker"
        if self.engines.running:
            return self.engines.running.engine == "docker"
        return bool(self.stack.services) and self.docker.works

    @property
    def service(self) -> Service | None:
        """The model server's, as Compose would start it; None for a server without a container."""
        return self.stack.server() if self.in_containers else None

    @shared
    def server_version(self) -> ServerVersion | None:
        if self.in_containers:
            return tensorflow.of_image(self.service.image) if self.service else None
        running = self.engines.running
        wanted = self.engine if self.engine != "auto" else running.engine if running else "native"
        native = tensorflow.of_native() if wanted == "native" else None
        return native or tensorflow.of_embedded()

    @property
    def url(self) -> str | None:
        """gRPC of the server that is meant to run; REST status calls would count as requests."""
        if self.engines.running:
            return self.engines.running.grpc_url
        if self.container is None:
            return None
        published = (one for service in self.stack.services for one in service.ports)  # the gateway's
        port = next((one.port for one in published if one.target == CONTAINER_GRPC_PORT), None)
        return f"grpc://127.0.0.1:{port}" if port else None

    @property
    def started(self) -> datetime | None:
        """When the running server was, as far as it is known."""
        if self.engines.running and self.engines.running.engine != "docker":
            return datetime.fromisoformat(self.engines.running.started)
        return self.container.started if self.container else None
