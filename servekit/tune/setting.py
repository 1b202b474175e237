"""What is tuned: values of a few keys of serving.yaml. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from servekit.config.serving import Serving

Value = int | str | bool | tuple[int, ...] | None
"""None: the key is not there (only below server.flags)."""

KEYS = (
    "batching.enabled",
    "batching.max_execution_batch_size",
    "batching.batch_timeout_micros",
    "batching.num_batch_threads",
    "batching.allowed_batch_sizes",
    "server.tensorflow_intra_op_parallelism",
    "server.tensorflow_inter_op_parallelism",
    "server.flags.grpc_max_threads",
    "server.flags.rest_api_num_threads",
)
TF_SERVINGS_OWN: Mapping[str, Value] = {
    "batching.enabled": False,
    "server.tensorflow_intra_op_parallelism": 0,
    "server.tensorflow_inter_op_parallelism": 0,
    "server.flags.grpc_max_threads": None,
    "server.flags.rest_api_num_threads": None,
}
"""A model server that is given none of this: every request runs alone, thread pools as TensorFlow sizes them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for each of KEYS, in their order."""

    values: tuple[Value, ...]

    def __getitem__(self, key: str) -> Value:
        return self.values[KEYS.index(key)]

    def items(self) -> Iterator[tuple[str, Value]]:
        return zip(KEYS, self.values, strict=True)

    def with_(self, changes: Mapping[str, Value]) -> Setting:
        return Setting(tuple(changes.get(key, value) for key, value in self.items()))

    def differences(self, other: Setting) -> dict[str, Value]:
        """Keys whose value is another one here than in `other`."""
        return {key: value for key, value in self.items() if value != other[key]}

    def effective(self) -> Setting:
        """Without batching its parameters mean nothing: two such settings are one."""
        if self["batching.enabled"]:
            return self
        return self.with_({key: None for key in KEYS if key.startswith("batching.") and key != "batching.enabled"})


def setting_of(serving: Serving) -> Setting:
    return Setting(tuple(_value(serving, key) for key in KEYS))


def unbatched(setting: Setting) -> Setting:
    return setting.with_(TF_SERVINGS_OWN)


def applied(serving: Serving, setting: Setting) -> Serving:
    """serving.yaml with these values. The types are not looked at: they come from `setting_of` and the axes."""
    sections: dict[str, dict[str, Any]] = {"batching": {}, "server": {"flags": dict(serving.server.flags)}}
    for key, value in setting.items():
        section, _, name = key.partition(".")
        if name.startswith("flags."):
            flags = sections[section]["flags"]
            flags.pop(name.removeprefix("flags."), None)
            flags |= {} if value is None else {name.removeprefix("flags."): value}
        elif value is not None:
            sections[section][name] = value
    return serving.model_copy(
        update={name: getattr(serving, name).model_copy(update=values) for name, values in sections.items()}
    )


def shown(changes: Mapping[str, Value]) -> str:
    """`batch_timeout_micros 1000, num_batch_threads 4`; `nothing` where nothing differs."""
    parts = []
    for key, value in changes.items():
        name = key.rpartition(".")[2]
        if key == "batching.enabled":
            parts.append("batching on" if value else "batching off")
        elif value is None:
            parts.append(f"no {name}")
        else:
            parts.append(f"{name} {list(value) if isinstance(value, tuple) else value}")
    return ", ".join(parts) or "nothing"


def _value(serving: Serving, key: str) -> Value:
    section, _, name = key.partition(".")
    part = getattr(serving, section)
    if name.startswith("flags."):
        found: Value = part.flags.get(name.removeprefix("flags."))
        return found
    value: Value = getattr(part, name)
    return value
