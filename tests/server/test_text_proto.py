from __future__ import annotations

from pathlib import Path

import pytest

from servekit.errors import StatusError
from servekit.protos import messages
from servekit.server.options import parse
from servekit.server.session_config import session_config
from servekit.server.text_proto import read_message


def test_a_text_file_becomes_a_message(tmp_path: Path) -> None:
    file = tmp_path / "b.config"
    file.write_text("max_batch_size { value: 4 } # rows")
    assert read_message(str(file), messages.BatchingParameters).max_batch_size.value == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "NOT_FOUND: {file}; No such file or directory"),
        (b"", "INVALID_ARGUMENT: {file}; Invalid argument"),
        (b"nonsense", "INVALID_ARGUMENT: Invalid protobuf file: '{file}'"),
        (b"max_batch_size: 4", "INVALID_ARGUMENT: Invalid protobuf file: '{file}'"),
        (b"\xff\xfe", "INVALID_ARGUMENT: Invalid protobuf file: '{file}'"),
    ],
    ids=["missing", "empty", "unknown field", "wrong form", "not text"],
)
def test_files_that_are_refused(tmp_path: Path, text: bytes | None, message: str) -> None:
    file = tmp_path / "b.config"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(StatusError) as refused:
        read_message(str(file), messages.BatchingParameters)
    assert str(refused.value) == message.format(file=file)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """`ParseProtoTextFile` of proto_util.h maps the file into memory, which the system refuses for a folder."""
    with pytest.raises(StatusError) as refused:
        read_message(str(tmp_path), messages.BatchingParameters)
    assert str(refused.value) == f"NOT_FOUND: {tmp_path}; No such device"


def test_where_the_mistake_is_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n  config { nome: 'a' }\n}")
    with pytest.raises(StatusError):
        read_message(str(file), messages.ModelServerConfig)
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:12 : " in caplog.text
    assert 'no field named "nome"' in caplog.text


def test_parallelism_flags_overwrite_the_session_file(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text("intra_op_parallelism_threads: 7 inter_op_parallelism_threads: 8 allow_soft_placement: true")
    flag = f"--tensorflow_session_config_file={file}"
    assert session_config(parse([flag]).options).intra_op_parallelism_threads == 7
    one = session_config(parse([flag, "--tensorflow_intra_op_parallelism=2"]).options)
    assert (one.intra_op_parallelism_threads, one.inter_op_parallelism_threads) == (2, 0)
    both = session_config(parse([flag, "--tensorflow_session_parallelism=3"]).options)
    assert (both.intra_op_parallelism_threads, both.inter_op_parallelism_threads) == (3, 3)
    assert both.allow_soft_placement


def test_parallelism_can_not_be_given_twice() -> None:
    names = ("session_parallelism", "intra_op_parallelism", "inter_op_parallelism")
    options = parse([f"--tensorflow_{name}=1" for name in names]).options
    with pytest.raises(StatusError, match="You cannot configure all"):
        session_config(options)
