"""An image that stands in for python:3.11-slim where no registry can be reached, made of this machine's own files.

It has a shell, the everyday programs, this Python, and the packages that requirements/run.txt names, as they are
installed here: the Dockerfile's `pip install --require-hashes` then finds each of them satisfied. In it pip may not go
to an index, so a package that is missing fails the build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackagePath, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    *("sh", "bash", "cat", "chmod", "chown", "cp", "cut", "date", "dirname", "env", "false", "find", "grep", "head"),
    *("id", "ls", "mkdir", "mktemp", "mv", "rm", "sed", "sleep", "sort", "stat", "tail", "test", "touch", "tr", "true"),
    *("uname", "wc"),
)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "usr/local/bin/pip": '#!/bin/sh\nexec python -m pip "$@"\n',
}
_CHANGES = (
    "ENV PATH=/usr/local/bin:/usr/bin:/bin",
    "ENV PIP_NO_INDEX=1",
)
_NOT_NEEDED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages"}


def build(env: Mapping[str, str]) -> str:
    """The image's name; nothing to do where it is there already. About 1.5 GB."""
    name = f"servekit-test/python:{_key()}"
    if subprocess.run(["docker", "image", "inspect", name], env=env, capture_output=True, check=False).returncode == 0:
        return name
    changes = [argument for change in _CHANGES for argument in ("--change", change)]
    command = ["docker", "import", *changes, "-", name]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importing:
        assert importing.stdin
        with importing.stdin, tarfile.open(fileobj=importing.stdin, mode="w|") as tar:
            _write(tar)
    if importing.returncode:
        raise RuntimeError(f"docker import: exit status {importing.returncode}")
    return name


def _key() -> str:
    """Changes with everything that the image is made of."""
    parts = [Path(__file__).read_bytes(), (ROOT / "requirements" / "run.txt").read_bytes()]
    parts += [sys.version.encode(), sys.base_prefix.encode(), (os.confstr("CS_GNU_LIBC_VERSION") or "").encode()]
    parts += [str(path.stat().st_mtime_ns).encode() for path in (_packages_folder(),)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _packages_folder() -> Path:
    return Path(str(distribution("jinja2").locate_file("")))


def _write(tar: tarfile.TarFile) -> None:
    for folder in ("bin", "etc", "root", "usr/local/bin", f"usr/local/lib/{PYTHON}/site-packages", "tmp"):
        _add_folder(tar, folder, 0o1777 if folder == "tmp" else 0o755)
    for file, text in _ACCOUNTS.items():
        _add_text(tar, file, text, 0o755 if file.startswith("usr/") else 0o644)
    programs = {name: Path(shutil.which(name) or f"/bin/{name}").resolve() for name in PROGRAMS}
    interpreter = Path(sys.executable).resolve()
    for name, program in programs.items():
        tar.add(program, f"bin/{name}")
    tar.add(interpreter, f"usr/local/bin/{PYTHON}")
    for name in ("python", "python3"):
        _add_link(tar, f"usr/local/bin/{name}", PYTHON)
    library = Path(os.path.dirname(os.__file__))  # noqa: PTH120
    tar.add(library, f"usr/local/lib/{PYTHON}", filter=_trimmed)
    for package in _packages():
        tar.add(package, f"usr/local/lib/{PYTHON}/site-packages/{package.name}", filter=_trimmed_package)
    extensions = [*library.glob("lib-dynload/*.so"), *(_packages_folder() / "tensorflow" / "python").glob("*.so")]
    for name in sorted(_libraries([*programs.values(), interpreter, *extensions])):
        tar.add(Path(name).resolve(), name.lstrip("/"))


def _packages() -> Iterator[Path]:
    """What stands in site-packages for each package of run.txt, and pip."""
    text = (ROOT / "requirements" / "run.txt").read_text()
    names = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    seen = set()
    for name in names:
        try:
            installed = distribution(name)
        except ImportError:
            continue  # for another platform; if not, the build fails
        for file in installed.files or ():
            top = Path(str(installed.locate_file(PackagePath(file.parts[0]))))
            if file.parts[0] not in {"..", "__pycache__"} and top not in seen and top.exists():
                seen.add(top)
                yield top
    pip = importlib.util.find_spec("pip")
    assert pip
    assert pip.origin
    yield Path(pip.origin).parent


def _libraries(programs: Iterable[Path]) -> set[str]:
    """Shared libraries by the paths under which the loader looks for them."""
    listing = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", listing, re.MULTILINE))
    return {path for path in found if "site-packages" not in path}


def _trimmed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts[4:]
    if any(part in _NOT_NEEDED or part.startswith("config-") for part in parts[:1]) or entry.name.endswith(".a"):
        return None
    return _of_root(entry)


def _trimmed_package(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith("site-packages/tensorflow/include") else _of_root(entry)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode |= 0o444 if entry.isfile() else 0o555
    return entry


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _add_text(tar: tarfile.TarFile, name: str, text: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text), mode
    tar.addfile(entry, io.BytesIO(text.encode()))


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
