"""Writes descriptors.binpb: the descriptors of every message servekit reads or writes.

Run: python -m servekit.protos.generate [--check]      (needs the dev requirements)

The messages come from the tensorflow and tensorflow-serving-api wheels (Apache-2.0); those that no wheel ships are in
extra/*.proto. TensorFlow itself is not imported: an empty package with its path is enough for its *_pb2 modules.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import types
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

HERE = Path(__file__).parent
OUT = HERE / "descriptors.binpb"
MODULES = (
    "tensorflow.core.example.example_pb2",
    "tensorflow.core.protobuf.config_pb2",
    "tensorflow.core.protobuf.saved_model_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)


def _without_running_tensorflow() -> None:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("tensorflow is not installed; run scripts/setup dev")
    package = types.ModuleType("tensorflow")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = package


def collect() -> descriptor_pb2.FileDescriptorSet:
    _without_running_tensorflow()
    result, seen = descriptor_pb2.FileDescriptorSet(), set[str]()

    def add(descriptor: Any) -> None:
        if descriptor.name in seen:
            return
        seen.add(descriptor.name)
        for dependency in descriptor.dependencies:
            add(dependency)
        descriptor.CopyToProto(result.file.add())

    for module in MODULES:
        add(importlib.import_module(module).DESCRIPTOR)
    for file in _compile_extra().file:
        if file.name not in seen:
            seen.add(file.name)
            result.file.add().CopyFrom(file)
    return result


def _compile_extra() -> descriptor_pb2.FileDescriptorSet:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "extra.binpb"
        names = sorted(path.name for path in (HERE / "extra").glob("*.proto"))
        include = str(files("grpc_tools") / "_proto")
        arguments = [f"-I{HERE / 'extra'}", f"-I{include}", "--include_imports", f"--descriptor_set_out={out}", *names]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 if the file is out of date")
    arguments = parser.parse_args()
    data = collect().SerializeToString(deterministic=True)
    if not arguments.check:
        OUT.write_bytes(data)
    elif OUT.read_bytes() != data:
        raise SystemExit(f"{OUT.name} is out of date: run python -m servekit.protos.generate")


if __name__ == "__main__":
    main()
