"""One client, four ways to speak: REST and gRPC, sync and async, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from servekit.client import AsyncClient, Class, Client, ModelSpec
from servekit.client.address import AddressError
from servekit.errors import Code, StatusError, Unreachable
from servekit.protos import messages
from tests.conftest import RunningServer, Serve, free_port
from tests.standing_still import StandingStill

MODELS = ("strings", "failing", "sleep", "widths")
CONFIG = """
model_config_list {
  config {
    name: "half_plus_two" base_path: "%(models)s/half_plus_two" model_platform: "tensorflow"
    model_version_policy { all {} }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  }
%(others)s}
"""


@pytest.fixture(scope="module")
def server(serve: Serve, models: Any) -> RunningServer:
    others = "".join(
        f'  config {{ name: "{name}" base_path: "{models}/{name}" model_platform: "tensorflow" }}\n' for name in MODELS
    )
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        files={"models.config": CONFIG % {"models": models, "others": others}},
    )


def url_of(server: RunningServer, protocol: str) -> str:
    return server.rest if protocol == "REST" else f"grpc://{server.grpc}"


Ask = Callable[..., Any]


@pytest.fixture(params=["REST", "gRPC", "async REST", "async gRPC"])
def ask(request: pytest.FixtureRequest, server: RunningServer) -> Ask:
    """ask("predict", "model", inputs, …): the method of a client that speaks in the test's way."""
    *is_async, protocol = request.param.split()
    url = url_of(server, protocol)

    async def one(method: str, *args: Any, **options: Any) -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)(*args, **options)

    def ask(method: str, *args: Any, **options: Any) -> Any:
        if is_async:
            return asyncio.run(one(method, *args, **options))
        with Client(url) as client:
            return getattr(client, method)(*args, **options)

    ask.protocol = protocol  # type: ignore[attr-defined]
    return ask


@pytest.mark.parametrize(
    "inputs",
    [{"x": [1.0, 2.0]}, [1.0, 2.0], [1, 2], np.array([1.0, 2.0]), {"x": np.array([1, 2], np.float32)}, (1.0, 2.0)],
    ids=["named list", "list", "whole numbers", "float64 array", "float32 array", "tuple"],
)
def test_predict_takes_lists_and_arrays_and_casts_them_to_the_signature(ask: Ask, inputs: Any) -> None:
    outputs = ask("predict", ModelSpec("half_plus_two", version=1), inputs).outputs
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [2.5, 3.0]


@pytest.mark.parametrize(
    ("spec", "expected", "version"),
    [
        (ModelSpec("half_plus_two", version=1), 2.5, 1),
        (ModelSpec("half_plus_two", version_label="stable"), 2.5, 1),
        (ModelSpec("half_plus_two", version_label="canary"), 3.5, 2),
        (ModelSpec("half_plus_two"), 3.5, 2),
        (ModelSpec("half_plus_two", signature_name="serving_default"), 3.5, 2),
    ],
)
def test_predict_reaches_the_version_or_label(ask: Any, spec: ModelSpec, expected: float, version: int) -> None:
    prediction = ask("predict", spec, [1.0])
    assert prediction.outputs["y"].tolist() == [expected]
    assert prediction.version == (version if ask.protocol == "gRPC" else None)
    assert ask("metadata", spec).version == version


def test_every_shape_and_special_number_comes_back_alike(ask: Ask) -> None:
    spec = ModelSpec("half_plus_two", version=1)
    values = np.array([[0.1, -0.0, 1e30], [np.inf, -np.inf, 3.3]], np.float32)
    assert ask("predict", spec, values).outputs["y"].tobytes() == (values / 2 + np.float32(2)).tobytes()
    assert np.isnan(ask("predict", spec, [np.nan]).outputs["y"]).tolist() == [True]
    assert ask("predict", spec, 4.0).outputs["y"].shape == ()
    assert ask("predict", spec, np.zeros((0,), np.float32)).outputs["y"].shape == (0,)


def test_bytes_go_in_and_come_out_unchanged(ask: Ask) -> None:
    data = bytes(range(256)) + b"\0\0"
    outputs = ask("predict", "strings", {"text": [data, b""]}, output_filter=["text_bytes"]).outputs
    assert list(outputs) == ["text_bytes"]
    assert outputs["text_bytes"].tolist() == [data, b""]
    assert outputs["text_bytes"].dtype == object


def test_text_is_sent_as_utf8(ask: Ask) -> None:
    outputs = ask("predict", "strings", ["grüße \"'\\\n"]).outputs
    assert outputs["text"].tolist() == outputs["text_bytes"].tolist() == ["grüße \"'\\\n".encode()]


def test_integer_outputs_keep_their_dtypes(ask: Ask) -> None:
    outputs = ask("predict", "widths", [[1, 2], [3, 2**40]]).outputs
    assert {name: array.dtype.name for name, array in outputs.items()} == {
        "ids": "int64",
        "sum": "int64",
        "width": "int32",
    }
    assert outputs["sum"].tolist() == [3, 3 + 2**40]


def test_classify_and_regress_take_examples(ask: Ask) -> None:
    classify = ModelSpec("half_plus_two", 1, signature_name="classify")
    assert ask("classify", classify, [{"x": 1.0}, {"x": [3.0]}]) == [
        [Class("first", 2.5), Class("second", -2.5)],
        [Class("first", 3.5), Class("second", -3.5)],
    ]
    regress = ModelSpec("half_plus_two", 1, signature_name="regress")
    assert ask("regress", regress, [{"x": 1.0}, {"x": 3.0}]) == [2.5, 3.5]
    assert ask("regress", regress, [{}, {}], context={"x": 1.0}) == [2.5, 2.5]


def test_status_lists_versions_highest_first(ask: Ask) -> None:
    status = ask("status", "half_plus_two")
    assert [(one.version, one.state, one.code) for one in status.versions] == [
        (2, "AVAILABLE", Code.OK),
        (1, "AVAILABLE", Code.OK),
    ]
    assert status.available() == (2, 1)


def test_metadata_names_inputs_outputs_and_their_shapes(ask: Ask) -> None:
    metadata = ask("metadata", "half_plus_two")
    assert (metadata.name, metadata.version) == ("half_plus_two", 2)
    assert set(metadata.signatures) == {"serving_default", "classify", "regress"}
    signature = metadata.signature("")
    assert signature.method_name == "tensorflow/serving/predict"
    x = signature.inputs["x"]
    assert (x.dtype, x.shape, x.data_type.numpy_name) == ("DT_FLOAT", (-1,), "float32")
    assert metadata.signature("nope") is None


@pytest.mark.parametrize(
    ("spec", "inputs", "code", "text"),
    [
        (ModelSpec("nope"), [1.0], Code.NOT_FOUND, "nope"),
        (ModelSpec("half_plus_two", version=7), [1.0], Code.NOT_FOUND, "half_plus_two"),
        (ModelSpec("half_plus_two", version_label="x"), [1.0], Code.INVALID_ARGUMENT, "Unrecognized servable version"),
        (ModelSpec("half_plus_two"), {"z": [1.0]}, Code.INVALID_ARGUMENT, ""),
        (ModelSpec("failing"), [-1.0], Code.INVALID_ARGUMENT, "x must not be negative"),
        (ModelSpec("half_plus_two"), ["text"], Code.INVALID_ARGUMENT, ""),
        (ModelSpec("half_plus_two", 1, "stable"), [1.0], Code.INVALID_ARGUMENT, "a version or a label, not both"),
    ],
)
def test_a_servers_error_has_its_code_and_text(ask: Ask, spec: ModelSpec, inputs: Any, code: Code, text: str) -> None:
    with pytest.raises(StatusError) as error:
        ask("predict", spec, inputs)
    assert error.value.code is code
    assert text in error.value.message


def test_an_unknown_signature_is_the_servers_to_refuse(ask: Any) -> None:
    with pytest.raises(StatusError, match="nope") as error:
        ask("predict", ModelSpec("half_plus_two", signature_name="nope"), {"x": [1.0]})
    # HTTP cannot tell the two apart.
    assert error.value.code is (Code.FAILED_PRECONDITION if ask.protocol == "gRPC" else Code.INVALID_ARGUMENT)


def test_values_without_a_name_need_a_signature_with_one_input(ask: Ask) -> None:
    with pytest.raises(StatusError, match="inputs are unknown; give a mapping"):
        ask("predict", ModelSpec("half_plus_two", signature_name="nope"), [1.0])


@pytest.mark.slow
def test_a_deadline_ends_the_wait(ask: Ask) -> None:
    ask("metadata", "sleep")
    start = time.monotonic()
    with StandingStill() as still, pytest.raises(StatusError) as error:
        ask("predict", "sleep", [3000], timeout_s=0.7)
    assert error.value.code is Code.DEADLINE_EXCEEDED
    assert error.value.message.endswith("did not answer within 0.7 s"), "what was asked for, not what was left of it"
    assert time.monotonic() - start < 2.5 + still.seconds
    time.sleep(2.5)  # the op goes on; the next test should not wait for it


def test_a_deadline_counts_what_trickles_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow, Client(f"http://127.0.0.1:{slow.getsockname()[1]}") as client:
        import threading

        def trickle() -> None:
            connection, _ = slow.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(20):
                time.sleep(0.1)
                try:
                    connection.sendall(b" ")
                except OSError:
                    break
            connection.close()

        thread = threading.Thread(target=trickle)
        thread.start()
        with pytest.raises(StatusError, match=r"did not answer within 0\.5 s"):
            client.status("m", timeout_s=0.5)
        thread.join()


def test_a_host_that_takes_no_connection_is_not_called_slow() -> None:
    """As behind a firewall that drops packets: here, a queue of connections that nobody empties."""
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with Client(url) as client, pytest.raises(Unreachable) as error:
            client.status("m", timeout_s=0.3)
    assert str(error.value) == f"no model server answers at {url}: no connection within 0.3 s"


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_a_server_that_is_down_is_said_with_what_to_do(protocol: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}" if protocol == "REST" else f"grpc://127.0.0.1:{port}"
    with Client(url) as client, pytest.raises(Unreachable) as error:
        client.predict("m", [1.0])
    assert str(error.value) == f"no model server answers at {url}: connection refused"
    assert error.value.hint == "start one: servekit up"
    assert error.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("swapped", "text"),
    [("REST", "answers, but not in HTTP"), ("gRPC", "answers, but not in gRPC")],
)
def test_the_other_protocols_port_is_recognised(server: RunningServer, swapped: str, text: str) -> None:
    url = f"http://{server.grpc}" if swapped == "REST" else f"grpc://127.0.0.1:{server.rest_port}"
    with Client(url) as client, pytest.raises(Unreachable, match=text):
        client.status("half_plus_two")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_host_that_does_not_exist_is_said_without_advice_to_start_one(scheme: str) -> None:
    with Client(f"{scheme}://no-such-host.invalid:8500", timeout_s=20) as client, pytest.raises(Unreachable) as error:
        client.status("m")
    assert error.value.hint == "check host and port: REST usually has 8501, gRPC 8500"


def test_a_server_that_is_no_model_server_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        import threading

        def answer() -> None:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with Client(url) as client, pytest.raises(StatusError, match="does not answer like a model server"):
            client.status("m")
        thread.join()


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8501", "ftp://x", "http://", "grpc:///", "grpc://host", "http://h:99999", "http://h/x"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(AddressError, match="is not a model server's address"):
        Client(url)


@pytest.mark.slow
def test_seventy_megabytes_pass_over_grpc(server: RunningServer) -> None:
    data = np.random.default_rng(0).bytes(70 * 2**20)
    with Client(f"grpc://{server.grpc}", timeout_s=60) as client:
        outputs = client.predict("strings", [data], output_filter=["text_bytes"]).outputs
    assert outputs["text_bytes"][0] == data


@pytest.mark.slow
def test_seventy_megabytes_pass_over_rest(server: RunningServer) -> None:
    data = b"x" * (70 * 2**20)
    with Client(server.rest, timeout_s=120) as client:
        outputs = client.predict("strings", [data], output_filter=["text_bytes"]).outputs
    assert outputs["text_bytes"][0] == data


def test_one_client_serves_many_threads(server: RunningServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    spec = ModelSpec("half_plus_two", 1)
    for url in (server.rest, f"grpc://{server.grpc}"):
        with Client(url) as client, ThreadPoolExecutor(8) as pool:
            answers = [
                prediction.outputs["y"].item()
                for prediction in pool.map(partial(client.predict, spec), [[n] for n in range(64)])
            ]
        assert answers == [n / 2 + 2 for n in range(64)]


@pytest.mark.slow
def test_many_async_calls_share_one_client(server: RunningServer) -> None:
    async def many(url: str) -> list[float]:
        async with AsyncClient(url) as client:
            spec = ModelSpec("half_plus_two", 1)
            answers = await asyncio.gather(*(client.predict(spec, [n]) for n in range(64)))
        return [answer.outputs["y"].item() for answer in answers]

    for url in (server.rest, f"grpc://{server.grpc}"):
        assert asyncio.run(many(url)) == [n / 2 + 2 for n in range(64)]


@pytest.mark.slow
def test_reload_config_is_a_call_of_grpc_alone(serve: Serve, models: Any) -> None:
    server = serve(f"--model_base_path={models}/half_plus_two", "--model_name=half_plus_two")
    config = messages.ModelServerConfig()
    entry = config.model_config_list.config.add(name="renamed", model_platform="tensorflow")
    entry.base_path = str(models / "half_plus_two")
    with Client(server.rest) as rest, pytest.raises(StatusError, match="no such call") as error:
        rest.reload_config(config)
    assert error.value.code is Code.UNIMPLEMENTED
    with Client(f"grpc://{server.grpc}") as client:
        client.reload_config(config)
        assert client.predict("renamed", [1.0]).outputs["y"].tolist() == [3.5]
        entry.base_path = "relative"
        with pytest.raises(StatusError) as error:
            client.reload_config(config)
        assert error.value.code is Code.INVALID_ARGUMENT


@pytest.mark.slow
def test_a_signature_that_changed_is_read_again_after_an_error(serve: Serve, models: Any) -> None:
    server = serve(f"--model_base_path={models}/strings", "--model_name=m")
    with Client(server.rest) as rest, Client(f"grpc://{server.grpc}") as grpc:
        assert set(rest.predict("m", ["a"]).outputs) == {"text", "text_bytes"}
        grpc.reload_config(messages.ModelServerConfig(model_config_list={}))
        deadline = time.monotonic() + 20
        while grpc.status("m").available() and time.monotonic() < deadline:
            time.sleep(0.1)
        config = messages.ModelServerConfig()
        entry = config.model_config_list.config.add(name="m", model_platform="tensorflow")
        entry.base_path = str(models / "widths")
        grpc.reload_config(config)
        with pytest.raises(StatusError):
            rest.predict("m", ["a"])
        assert rest.predict("m", [[1, 2]]).outputs["sum"].tolist() == [3]
