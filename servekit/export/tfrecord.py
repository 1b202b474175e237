"""TFRecord files without TensorFlow: a record is its length, the length's checksum, the bytes, their checksum.

Format: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_CASTAGNOLI = 0x82F63B78


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TensorFlow does so that checksums of checksums stay good.

    >>> hex(masked_crc32c(b"123456789"))
    '0x83b2f13f'
    """
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(path: Path, records: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for data in records:
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(data + struct.pack("<I", masked_crc32c(data)))


def read_records(path: Path) -> Iterator[bytes]:
    """Raises ValueError where a checksum or the end of the file is wrong."""
    with path.open("rb") as file:
        while head := file.read(12):
            length, checksum = struct.unpack("<QI", head.ljust(12, b"\0"))
            if len(head) < 12 or checksum != masked_crc32c(head[:8]):
                raise ValueError("corrupt record header")
            data = file.read(length)
            if file.read(4) != struct.pack("<I", masked_crc32c(data)):
                raise ValueError("corrupt record")
            yield data
