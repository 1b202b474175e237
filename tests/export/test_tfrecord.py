from __future__ import annotations

from pathlib import Path

import pytest

from servekit.export.tfrecord import masked_crc32c, read_records, write_records


def test_the_checksum_of_an_empty_record_is_tensorflows() -> None:
    assert masked_crc32c(b"") == 0xA282EAD8  # crc32c("") is 0; the mask adds this constant


def test_the_checksum_of_the_standard_text_is_the_published_one() -> None:
    rotated = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == 0xE3069283  # RFC 3720, B.4


@pytest.mark.parametrize("records", [[], [b""], [b"a", b"bb" * 1000, b""]], ids=["none", "empty", "three"])
def test_what_is_written_is_read_back(tmp_path: Path, records: list[bytes]) -> None:
    write_records(tmp_path / "file", records)
    assert list(read_records(tmp_path / "file")) == records


@pytest.mark.parametrize("position", [0, 9, 14, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, position: int) -> None:
    path = tmp_path / "file"
    write_records(path, [b"some data"])
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="corrupt"):
        list(read_records(path))


def test_a_cut_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_records(path, [b"some data"])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="corrupt"):
        list(read_records(path))


@pytest.mark.slow
def test_tensorflow_reads_what_is_written(tmp_path: Path) -> None:
    import tensorflow as tf

    records = [b"", b"one", bytes(100_000)]
    write_records(tmp_path / "file", records)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "file"))] == records
