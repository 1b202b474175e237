"""`servekit predict MODEL FOLDER` against a real server: kills, interruptions, lost servers, broken images."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from servekit.protos import messages
from tests.conftest import ROOT, RunningServer, Serve
from tests.export.bundles import Exported

pytestmark = pytest.mark.slow

CONFIG = """
model_config_list {
  config { name: "half_plus_two" base_path: "%(models)s/half_plus_two" model_platform: "tensorflow" }
  config {
    name: "strings" base_path: "%(models)s/strings" model_platform: "tensorflow"
    version_labels { key: "stable" value: 1 }
  }
}
"""
JPEG = b"\xff\xd8\xff\xe0 image "


def start_server(serve: Serve, models: Path, *flags: str, batching: str = "") -> RunningServer:
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        *flags,
        files={"models.config": CONFIG % {"models": models}, "batching.config": batching},
    )


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return start_server(serve, models)


@pytest.fixture(scope="module")
def unhurried(serve: Serve, models: Path) -> RunningServer:
    """Gathers a batch for 50 ms: there is time to stop what asks it. A test ends it: the last one of these."""
    flags = ("--enable_batching=true", "--batching_parameters_file={work}/batching.config")
    return start_server(serve, models, *flags, batching="batch_timeout_micros { value: 50000 }")


@pytest.fixture(params=["REST", "gRPC"])
def url(request: pytest.FixtureRequest, server: RunningServer) -> str:
    return server.rest if request.param == "REST" else f"grpc://{server.grpc}"


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        (path / f"{number:04}.jpg").write_bytes(JPEG + str(number).encode())
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "servekit", "predict", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def example_of(x: float) -> bytes:
    example = messages.Example()
    example.features.feature["x"].float_list.value.append(x)
    data: bytes = example.SerializeToString()
    return data


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names_of(path: Path) -> list[str]:
    return sorted(line["file"] for line in lines_of(path))


def test_every_image_gets_a_line_and_broken_ones_say_why(url: str, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 11), tmp_path / "results.jsonl"
    (folder / "sub").mkdir()
    (folder / "sub" / "no extension").write_bytes(JPEG)
    (folder / "text.jpg").write_text("text")
    (folder / "notes.txt").write_text("text")
    (folder / "loop").symlink_to(folder)
    answer = run("strings", folder, "--label", "stable", "--batch", 4, "--output", output, "--json", "--url", url)
    assert answer.returncode == 1, answer.stderr
    summary = json.loads(answer.stdout)
    assert {name: summary[name] for name in ("state", "version", "images", "answered", "failed", "skipped")} == {
        "state": "finished",
        "version": 1,
        "images": 13,
        "answered": 12,
        "failed": 1,
        "skipped": 0,
    }
    assert [one["file"] for one in summary["failures"]] == ["text.jpg"]
    assert "failed: text.jpg: no image" in answer.stderr
    lines = {line["file"]: line for line in lines_of(output)}
    assert len(lines) == 13
    first = lines["0000.jpg"]
    assert (first["asked_label"], first["asked_version"], first["version"]) == ("stable", None, 1)
    assert (first["model"], first["signature"], first["error"]) == ("strings", "serving_default", None)
    assert first["milliseconds"] > 0
    assert lines["text.jpg"]["version"] is None


def test_with_one_request_at_a_time_lines_are_in_the_order_of_names(server: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 30), tmp_path / "results.jsonl"
    (folder / "0005.jpg").write_text("text")
    run("strings", folder, "--batch", 4, "--parallel", 1, "--output", output, "--url", server.rest)
    assert [line["file"] for line in lines_of(output)] == sorted(path.name for path in folder.iterdir())


def test_a_killed_run_goes_on_and_loses_nothing(url: str, unhurried: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 600), tmp_path / "results.jsonl"
    arguments = ("strings", folder, "--batch", 2, "--parallel", 3, "--output", output, "--url")
    process = start(*arguments, unhurried.rest if url.startswith("http") else f"grpc://{unhurried.grpc}")
    wait_for_lines(output, 40, process)
    process.kill()
    process.communicate()
    left = output.read_bytes()
    assert 40 <= left.count(b"\n") < 600
    output.write_bytes(left + b'{"file":"0599.jpg","bytes":1')  # what a power failure leaves
    answer = run(*arguments, url, "--json")
    assert answer.returncode == 0, answer.stderr
    assert output.read_bytes().startswith(left)
    assert names_of(output) == sorted(path.name for path in folder.iterdir())
    done = left.count(b"\n")
    assert json.loads(answer.stdout)["skipped"] == done
    assert f"{done} of 600 images are done, {600 - done} to go" in answer.stderr


def test_ctrl_c_keeps_what_is_answered_and_says_how_to_go_on(
    server: RunningServer, unhurried: RunningServer, tmp_path: Path
) -> None:
    folder, output = folder_of(tmp_path / "in", 300), tmp_path / "results.jsonl"
    arguments = ("strings", folder, "--batch", 1, "--output", output, "--url")
    process = start(*arguments, unhurried.rest, "--json")
    wait_for_lines(output, 20, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].endswith(f"all results so far are in {output}, the same command goes on from there")
    summary = json.loads(stdout)
    assert summary["state"] == "interrupted"
    assert summary["answered"] == len(lines_of(output)) == 300 - summary["not_asked"] < 300
    assert run(*arguments, server.rest).returncode == 0
    assert len(set(names_of(output))) == len(names_of(output)) == 300


def test_a_server_that_hangs_for_a_moment_is_waited_for(unhurried: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 100), tmp_path / "results.jsonl"
    process = start("strings", folder, "--batch", 1, "--output", output, "--url", unhurried.rest, "--timeout", 1)
    wait_for_lines(output, 5, process)
    unhurried.process.send_signal(signal.SIGSTOP)
    assert process.stderr
    said = next((line for line in process.stderr if "asking again" in line), "")
    unhurried.process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert f"DEADLINE_EXCEEDED: {unhurried.rest} did not answer within 1 s; asking again\n" in said
    assert len(lines_of(output)) == 100


def test_a_server_that_dies_ends_the_run_and_the_next_goes_on(
    server: RunningServer, unhurried: RunningServer, tmp_path: Path
) -> None:
    folder, output = folder_of(tmp_path / "in", 300), tmp_path / "results.jsonl"
    arguments = ("strings", folder, "--batch", 1, "--output", output)
    process = start(*arguments, "--url", unhurried.rest)
    wait_for_lines(output, 20, process)
    unhurried.stop(signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"error: no model server answers at {unhurried.rest}: connection refused" in stderr
    assert f"hint: start one: servekit up; all results so far are in {output}" in stderr
    assert all(line["error"] is None for line in lines_of(output))
    assert run(*arguments, "--url", server.rest).returncode == 0
    assert len(set(names_of(output))) == len(names_of(output)) == 300


def test_one_image_that_the_server_refuses_does_not_fail_its_batch(url: str, tmp_path: Path) -> None:
    """Files that are bitmaps by their first bytes and tf.Examples to the model, which refuses what is none."""
    folder, output = tmp_path / "in", tmp_path / "results.jsonl"
    folder.mkdir()
    for number in range(8):
        is_good = number not in (2, 5)
        (folder / f"{number}.bmp").write_bytes(b"BM" + bytes(77) + (example_of(4.0) if is_good else b"\xff"))
    arguments = ("half_plus_two", folder, "--version", 2, "--signature", "regress", "--output", output, "--url", url)
    answer = run(*arguments)
    assert answer.returncode == 1, answer.stderr
    lines = lines_of(output)
    assert [line["file"] for line in lines if line["error"]] == ["2.bmp", "5.bmp"]
    assert all("INVALID_ARGUMENT" in line["error"] for line in lines if line["error"])
    assert [line["outputs"] for line in lines if not line["error"]] == [{"outputs": [5.0]}] * 6
    assert "hint: --retry-failed asks again" in answer.stderr
    shutil.copy(folder / "0.bmp", folder / "2.bmp")  # another size: asked again in any case
    (folder / "5.bmp").unlink()
    assert run(*arguments, "--retry-failed").returncode == 0
    assert {line["file"]: line["error"] for line in lines_of(output)}["2.bmp"] is None


def test_retry_failed_asks_again_and_otherwise_failures_stay(server: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 3), tmp_path / "results.jsonl"
    (folder / "0001.jpg").write_bytes(b"x" * len(JPEG + b"1"))
    arguments = ("strings", folder, "--output", output, "--url", f"grpc://{server.grpc}")
    assert run(*arguments).returncode == 1
    (folder / "0001.jpg").write_bytes(JPEG + b"1")
    again = run(*arguments)
    assert again.returncode == 1
    assert "failed: 0001.jpg: no image" in again.stderr
    assert run(*arguments, "--retry-failed").returncode == 0
    assert names_of(output) == ["0000.jpg", "0001.jpg", "0002.jpg"]


def test_another_question_is_refused_unless_the_file_is_overwritten(server: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 3), tmp_path / "results.jsonl"
    arguments = ("strings", folder, "--output", output, "--url", server.rest)
    assert run(*arguments, "--label", "stable").returncode == 0
    before = output.read_bytes()
    refused = run(*arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"error: {output}:1: was asked for with label stable, not with no label",
        "hint: give another --output, or --overwrite to start again",
    ]
    assert output.read_bytes() == before
    assert run(*arguments, "--overwrite").returncode == 0
    assert {line["asked_label"] for line in lines_of(output)} == {None}


def test_bytes_outputs_become_files_and_are_not_taken_for_images_of_the_folder(
    server: RunningServer, tmp_path: Path
) -> None:
    folder, output = folder_of(tmp_path / "in", 3), tmp_path / "results.jsonl"
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n image")
    arguments = (
        "strings",
        folder,
        "--output",
        output,
        "--output-dir",
        folder / "out",
        "--url",
        f"grpc://{server.grpc}",
    )
    for _ in range(2):
        answer = run(*arguments)
        assert answer.returncode == 0, answer.stderr
    lines = lines_of(output)
    assert sorted(line["files"]["text_bytes"] for line in lines) == [
        *(f"000{number}.jpg.jpeg" for number in range(3)),
        "sub/a.png.png",
    ]
    for line in lines:
        assert (folder / "out" / line["files"]["text_bytes"]).read_bytes() == (folder / line["file"]).read_bytes()
        assert list(line["outputs"]) == ["text"]


def test_large_outputs_can_be_left_out(url: str, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 3), tmp_path / "results.jsonl"
    answer = run("strings", folder, "--output", output, "--output-filter", "text_bytes", "--url", url)
    assert answer.returncode == 0, answer.stderr
    assert [list(line["outputs"]) for line in lines_of(output)] == [["text_bytes"]] * 3
    wrong = run("strings", folder, "--output", tmp_path / "r", "--output-filter", "nope", "--url", url)
    assert wrong.returncode == 2
    assert "error: strings has no output nope; it has text, text_bytes" in wrong.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["strings", "{folder}"], "say with --output FILE.jsonl where its results go"),
        (["strings", "{folder}", "LICENSE", "--output", "{out}"], "give one folder, or images"),
        (["strings", "{image}", "--batch", "8"], "are for a folder"),
        (["strings", "{empty}", "--output", "{out}"], "no images"),
        (["half_plus_two", "{folder}", "--output", "{out}"], "half_plus_two takes x (DT_FLOAT [-1]), not image files"),
        (["strings", "{folder}", "--output", "{out}", "--batch", "0"], "0 is not in the range"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked_or_written(
    server: RunningServer, tmp_path: Path, arguments: list[str], error: str
) -> None:
    folder, empty, out = folder_of(tmp_path / "in", 1), tmp_path / "empty", tmp_path / "r.jsonl"
    empty.mkdir()
    names = {"folder": folder, "empty": empty, "out": out, "image": folder / "0000.jpg"}
    answer = run(*(argument.format(**names) for argument in arguments), "--url", server.rest)
    assert answer.returncode == 2
    assert error in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr
    assert not out.exists()


@pytest.mark.parametrize("wrong", [("--label", "nope"), ("--version", "7"), ("--signature", "nope")])
def test_what_is_not_served_is_one_error_and_no_file(server: RunningServer, tmp_path: Path, wrong: Any) -> None:
    answer = run("strings", folder_of(tmp_path / "in", 1), "--output", tmp_path / "r", "--url", server.rest, *wrong)
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert not (tmp_path / "r").exists()


def test_a_terminal_gets_a_bar(server: RunningServer, tmp_path: Path) -> None:
    folder, output = folder_of(tmp_path / "in", 20), tmp_path / "results.jsonl"
    ours, theirs = pty.openpty()
    arguments = command("strings", folder, "--output", output, "--url", server.rest)
    process = subprocess.Popen(
        arguments, cwd=ROOT, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # the other end closed
        pass
    os.close(ours)
    assert process.wait(30) == 0
    assert b"20/20" in shown
    assert b"0 failed" in shown


@pytest.mark.parametrize("protocol", ["--rest", "--grpc"])
def test_memory_does_not_grow_with_the_folder_and_tensorflow_is_not_imported(
    server: RunningServer, tmp_path: Path, protocol: str
) -> None:
    """Half a megabyte each; to the model they are tf.Examples with a large unknown field."""
    field_of_500_000_bytes = b"\x42\xa0\xc2\x1e" + bytes(500_000)
    program = (
        "import atexit, resource, sys; from servekit.cli.main import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "atexit.register(lambda: print(peak(), 'tensorflow' in sys.modules))\nmain()"
    )
    port = server.rest_port if protocol == "--rest" else server.grpc_port
    peaks_kb = []
    for count in (160, 640):
        folder = tmp_path / f"in{count}"
        folder.mkdir()
        (folder / "0.bmp").write_bytes(b"BM" + bytes(77) + example_of(4.0) + field_of_500_000_bytes)
        for number in range(1, count):
            os.link(folder / "0.bmp", folder / f"{number}.bmp")
        arguments = ["predict", "half_plus_two", str(folder), "--signature", "regress", "--parallel", "3", protocol]
        arguments += ["--output", str(tmp_path / f"{count}.jsonl"), "--host", "127.0.0.1", "--port", str(port)]
        answer = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        assert len(lines_of(tmp_path / f"{count}.jsonl")) == count
        peak_kb, imported = answer.stdout.split()
        assert imported == "False"
        peaks_kb.append(int(peak_kb))
    assert peaks_kb[1] < peaks_kb[0] + 100_000  # the other 480 images are 240 MB


def test_a_real_classifier_answers_for_a_folder_with_broken_images(
    serve: Serve, exported: Exported, tmp_path: Path
) -> None:
    server = serve(f"--model_base_path={exported.folder.parent}", "--model_name=imagenet")
    folder, output = tmp_path / "in", tmp_path / "results.jsonl"
    shutil.copytree(ROOT / "export" / "samples", folder)
    (folder / "truncated.jpg").write_bytes((folder / "chelsea.jpg").read_bytes()[:5000])
    (folder / "garbage.png").write_bytes(b"garbage")
    answer = run("imagenet", folder, "--output", output, "--url", server.rest, "--top", 3)
    assert answer.returncode == 1
    lines = {line["file"]: line for line in lines_of(output)}
    assert {name for name, line in lines.items() if line["error"]} == {"truncated.jpg", "garbage.png"}
    assert (lines["truncated.jpg"]["valid"], lines["garbage.png"]["valid"]) == (False, None)
    for name in ("chelsea.jpg", "chelsea.png", "chelsea.webp"):
        assert set(lines[name]["labels"]) == {"tiger cat", "Egyptian cat", "tabby"}
        assert len(lines[name]["class_ids"]) == len(lines[name]["probabilities"]) == 3
    assert lines["coffee.jpg"]["labels"][0] == "espresso"
