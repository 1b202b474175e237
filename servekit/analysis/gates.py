"""Somebody else's opinion: a webhook that is sent JSON, or a command that reads it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import httpx
import orjson

from servekit.analysis import tls
from servekit.analysis.verdict import Answer
from servekit.config.canary import Gate, seconds

LONGEST_REASON = 300
"""Characters."""
_READ = 4096  # bytes of an answer's beginning, or of an output's end
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


def ask_all(gates: Mapping[str, Gate], question: Mapping[str, Any], folder: Path) -> dict[str, Answer]:
    """All at the same time, each at most its timeout. `question` is what they are told; commands run in `folder`."""
    if not gates:
        return {}
    body = orjson.dumps(dict(question))
    with ThreadPoolExecutor(len(gates)) as pool:
        asked = {name: pool.submit(ask, gate, body, folder) for name, gate in gates.items()}
        return {name: future.result() for name, future in asked.items()}


def ask(gate: Gate, body: bytes, folder: Path) -> Answer:
    timeout_s = seconds(gate.timeout)
    return _post(gate.url, body, timeout_s) if gate.url else _run(gate.command or (), body, folder, timeout_s)


def _post(url: str, body: bytes, timeout_s: float) -> Answer:
    headers = {"content-type": "application/json", "user-agent": "servekit"}
    try:
        with (
            httpx.Client(timeout=timeout_s, trust_env=False, verify=tls.context(url)) as http,
            http.stream("POST", url, content=body, headers=headers) as answer,
        ):
            text = _beginning(answer, time.monotonic() + timeout_s)
            return Answer(answer.is_success, text or f"HTTP {answer.status_code}")
    except httpx.TimeoutException:
        return Answer(False, f"no answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(False, f"not reached: {error}")


def _beginning(answer: httpx.Response, deadline: float) -> str:
    """Of the body; a body that does not end is not waited for."""
    data = b""
    for block in answer.iter_bytes():
        data += block
        if len(data) >= _READ:
            break
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the body does not end")
    return _one_line(data[:_READ].decode(errors="replace"))


def _run(command: tuple[str, ...], body: bytes, folder: Path, timeout_s: float) -> Answer:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
        given.write(body)
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                start_new_session=True,
            )
        except OSError as error:
            return Answer(False, f"{command[0]} does not start: {error.strerror}")
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return Answer(False, f"not done within {timeout_s:g} s, killed")
        finally:
            # What it started in the background too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = _last_line(out)
    if status < 0:
        return Answer(False, f"ended by {_signal(-status)}{text and ': ' + text}")
    return Answer(status == 0, text or f"exit status {status}")


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _READ))
    lines = file.read().decode(errors="replace").strip().splitlines()
    return _one_line(lines[-1]) if lines else ""


def _one_line(text: str) -> str:
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"
