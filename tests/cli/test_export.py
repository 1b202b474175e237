from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from servekit.cli.export import configured_batch_sizes
from servekit.errors import ExportError
from servekit.export import publish
from servekit.export.pipeline import disk_error
from servekit.paths import Bundle
from tests.export.bundles import ROOT, Exported, environment, new_bundle, servekit

WRONG = """
import numpy as np
from servekit.export.recipe import Check, Limit, Model, Recipe, Signature, Source, Spec

RECIPE = Recipe("Wrong", "MIT", "https://example.org")

def build(options):
    x = np.ones(2, np.float32)
    return Model(
        signatures={"serving_default": Signature(lambda _, x: {"y": x + 0.1}, {"x": Spec("float32", (None,))})},
        source=Source("nothing"),
        checks=lambda _: [Check("y", "serving_default", {"x": x}, "y", x, Limit(max_abs=0.01))],
    )
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return new_bundle(tmp_path / "bundle")


def versions(bundle: Bundle, model: str) -> list[str]:
    folder = bundle.models / model
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def staged(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in bundle.staging.iterdir()) if bundle.staging.is_dir() else []


def test_list_names_recipes_variants_and_what_is_published(bundle: Bundle) -> None:
    (bundle.models / "imagenet" / "2").mkdir(parents=True)
    (entry,) = [
        entry
        for entry in json.loads(servekit(bundle, "export", "--list", "--json").stdout)["recipes"]
        if entry["model"] == "imagenet"
    ]
    assert {variant["version"]: variant["name"] for variant in entry["variants"]} == {
        1: "lite0",
        2: "lite2",
        3: "lite1",
    }
    assert entry["published"] == [2]
    assert entry["next_version"] == 1
    assert "imagenet: EfficientNet-Lite" in servekit(bundle, "export", "--list").stdout


def test_list_shows_a_broken_recipe_and_the_others(bundle: Bundle) -> None:
    (bundle.recipes / "broken.py").write_text("import no_such_module")
    done = servekit(bundle, "export", "--list")
    assert done.returncode == 0
    assert "broken: does not load: export/broken.py:1: ModuleNotFoundError" in done.stdout
    assert "imagenet" in done.stdout


def test_the_authors_of_a_recipe_can_see_the_traceback(bundle: Bundle) -> None:
    (bundle.recipes / "bad.py").write_text("from _blocks import conv\n")
    (bundle.recipes / "_blocks.py").write_text("def conv():\n    return missing\n\nconv()\n")
    done = servekit(bundle, "export", "bad", "--version", "1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: export/_blocks.py:2: NameError: name 'missing' is not defined",
        "hint: --traceback shows how Python came there",
    ]
    shown = servekit(bundle, "export", "bad", "--version", "1", "--traceback")
    assert "Traceback (most recent call last):" in shown.stderr
    assert f'File "{bundle.recipes / "bad.py"}", line 1, in <module>' in shown.stderr
    assert shown.stderr.splitlines()[-2:] == done.stderr.splitlines()[-2:]


def test_list_does_not_import_tensorflow(bundle: Bundle) -> None:
    program = """
import sys
from servekit.cli.main import root
root.main(["export", "--list"], standalone_mode=False)
assert not any(name.split(".")[0] in ("tensorflow", "keras") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], env=environment(bundle), check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "which MODEL?"),
        (["imagenet"], 2, "--version is missing; the next free version of imagenet is 1"),
        (["imagenet", "--version", "0"], 2, "Invalid value for '--version'"),
        (["imagenet", "--version", "1", "--name", "../etc"], 2, "cannot be a model's name"),
        (["imagenet", "--version", "1", "--warmup-batch", "1,x"], 2, "not a list of batch sizes"),
        (["imagenet", "--version", "9"], 1, "version 9 does not say which variant is meant"),
        (["imagenet", "--version", "1", "--source", "x"], 1, "takes no --source"),
        (["imagnet", "--version", "1"], 1, "hint: did you mean imagenet?"),
    ],
)
def test_a_wrong_call_is_one_clear_error(bundle: Bundle, arguments: Sequence[str], status: int, text: str) -> None:
    done = servekit(bundle, "export", *arguments)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        ("", None),
        ("batching: {max_batch_size: 32, max_execution_batch_size: 32, allowed_batch_sizes: [1, 4, 32]}", (1, 4, 32)),
        ("batching: {enabled: false, max_batch_size: 4, allowed_batch_sizes: [4]}", None),
        ("batching: {no such key: 1}", None),
    ],
    ids=["no padding", "padding", "off", "broken file"],
)
def test_every_batch_size_that_the_server_pads_to_is_warmed_up(
    bundle: Bundle, batching: str, sizes: tuple[int, ...] | None
) -> None:
    bundle.serving_yaml.parent.mkdir()
    bundle.serving_yaml.write_text(f"models: {{imagenet: {{versions: all}}}}\n{batching}\n")
    assert configured_batch_sizes(bundle) == sizes


def test_a_published_version_is_not_touched(bundle: Bundle) -> None:
    kept = bundle.models / "imagenet" / "1" / "saved_model.pb"
    kept.parent.mkdir(parents=True)
    kept.write_text("old")
    done = servekit(bundle, "export", "imagenet", "--version", "1")
    assert done.returncode == 1
    assert "error: models/imagenet/1: this version is published" in done.stderr
    assert "hint: the next free version is 2" in done.stderr
    assert kept.read_text() == "old"


def test_models_that_cannot_be_written_are_one_clear_line(bundle: Bundle) -> None:
    bundle.models.touch()
    done = servekit(bundle, "export", "half_plus_two", "--version", "1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: models: File exists"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS], ids=["access", "owner", "read-only"])
def test_models_without_permission_are_one_clear_line(bundle: Bundle, number: int) -> None:
    error = disk_error(bundle, OSError(number, os.strerror(number), str(bundle.models / "imagenet")))
    assert isinstance(error, ExportError)
    assert error.message == "models/imagenet: not writable by this user"
    assert error.hint == "ls -ld models/imagenet"


def test_a_file_where_the_model_has_its_folder_is_one_clear_line(bundle: Bundle) -> None:
    bundle.models.mkdir()
    (bundle.models / "half_plus_two").touch()
    folder = bundle.root / "built"
    folder.mkdir()
    with pytest.raises(OSError, match="File exists") as caught:
        publish.publish(folder, bundle, "half_plus_two", 1)
    assert disk_error(bundle, caught.value).message == "models/half_plus_two: File exists"


def test_a_full_disk_is_one_clear_line(bundle: Bundle) -> None:
    error = disk_error(bundle, OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(error, ExportError)
    assert error.message == "the disk is full; nothing was published"


@pytest.mark.slow
def test_an_export_prints_its_path_its_stages_and_its_proof(exported: Exported) -> None:
    assert exported.document["path"] == "models/imagenet/1"
    assert "load as TF Serving does, warm up" in exported.stderr
    assert "ok  top-1 agreement: 100.0% equal" in exported.stderr
    assert staged(exported.bundle) == []


@pytest.mark.slow
def test_a_wrong_answer_is_not_published_unless_forced(bundle: Bundle) -> None:
    (bundle.recipes / "wrong.py").write_text(WRONG)
    done = servekit(bundle, "export", "wrong", "--version", "1")
    assert done.returncode == 1
    assert (
        "error: wrong: the exported model's answers are not the expected ones: y: max 0.1 (limit 0.01)" in done.stderr
    )
    assert versions(bundle, "wrong") == []
    assert staged(bundle) == []
    forced = servekit(bundle, "export", "wrong", "--version", "1", "--force-tolerance", "--json")
    assert forced.returncode == 0, forced.stderr
    assert json.loads(forced.stdout)["parity"][0]["ok"] is False


@pytest.mark.slow
def test_a_mistake_in_a_recipe_is_shown_with_its_line(bundle: Bundle) -> None:
    text = WRONG.replace('lambda _, x: {"y": x + 0.1}', "lambda _, x: {\"y\": x + 'one'}")
    (bundle.recipes / "wrong.py").write_text(text)
    done = servekit(bundle, "export", "wrong", "--version", "1")
    assert done.returncode == 1
    assert "error: export/wrong.py:10: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_dry_run_checks_and_publishes_nothing(bundle: Bundle) -> None:
    done = servekit(bundle, "export", "half_plus_two", "--version", "1", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["path"] is None
    assert document["warmup"]["records"] == 6  # of three signatures, batches of 1 and 8
    assert versions(bundle, "half_plus_two") == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["import TensorFlow", "save"])
def test_a_killed_export_leaves_no_version_and_the_next_one_cleans_up(bundle: Bundle, stage: str) -> None:
    started = start(bundle, "imagenet")
    read_until(started, f"  {stage}:")
    started.kill()
    started.communicate()
    assert versions(bundle, "imagenet") == []
    assert staged(bundle) != []
    wait_until_gone(bundle)
    with publish.staging(bundle, "half_plus_two", 1) as following:
        assert {name.removesuffix(".lock") for name in staged(bundle)} == {following.name}
    assert staged(bundle) == []


@pytest.mark.slow
def test_ctrl_c_leaves_neither_files_nor_processes(bundle: Bundle) -> None:
    started = start(bundle, "imagenet")
    read_until(started, "  import TensorFlow:")
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, rest = started.communicate(timeout=150)
    assert started.returncode == 130
    assert "Traceback" not in rest
    assert staged(bundle) == []
    assert versions(bundle, "imagenet") == []
    wait_until_gone(bundle)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_is_lost_inside_the_work_ends_the_export_before_the_next_stage(
    bundle: Bundle, number: signal.Signals, status: int
) -> None:
    """TensorFlow swallows what is raised in its callbacks. This recipe does."""
    swallowing = f"try: os.kill(os.getpid(), {number:d}); time.sleep(5)\nexcept BaseException: pass\n"
    (bundle.recipes / "wrong.py").write_text(f"import os, time\n{swallowing}{WRONG}")
    done = servekit(bundle, "export", "wrong", "--version", "1", "--force-tolerance")
    assert done.returncode == status
    assert "import TensorFlow" not in done.stderr
    assert staged(bundle) == []
    assert versions(bundle, "wrong") == []


@pytest.mark.slow
def test_of_two_exports_of_one_version_one_wins(bundle: Bundle) -> None:
    both = [start(bundle, "half_plus_two") for _ in range(2)]
    texts = [process.communicate(timeout=200)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    (loser,) = [text for process, text in zip(both, texts, strict=True) if process.returncode]
    assert "error: models/half_plus_two/1: this version is published" in loser
    assert versions(bundle, "half_plus_two") == ["1"]
    assert staged(bundle) == []


def start(bundle: Bundle, model: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "servekit", "export", model, "--version", "1"]
    return subprocess.Popen(
        command,
        env=environment(bundle),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    pytest.fail(f"the export ended before {beginning!r}")


def wait_until_gone(bundle: Bundle, seconds: float = 60) -> None:
    """No process of the export is left; each has the bundle in its environment."""
    deadline = time.monotonic() + seconds
    while left := [process for process in psutil.process_iter() if _belongs(process, bundle)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _belongs(process: psutil.Process, bundle: Bundle) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("SERVEKIT_HOME") == str(bundle.root)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
