"""Answers as arrays, without a server: what is compared, and when two answers are alike."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from servekit.analysis.compare import CannotCompare, chosen, compare
from servekit.analysis.pictures import mean_iou, psnr
from servekit.config.canary import Agreement

Outputs = dict[str, NDArray[Any]]


def texts(*rows: Any) -> NDArray[Any]:
    return np.array(rows, dtype=object)


def file(pixels: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    if mode == "P":
        image = image.convert("L")
        image.putpalette([0, 0, 0, 255, 0, 0])
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def strings(*files: bytes) -> NDArray[Any]:
    array = np.empty(len(files), dtype=object)
    array[:] = files
    return array


SCORES = np.array([[0.7, 0.2, 0.1]], dtype=np.float32)
PLANE = np.zeros((1, 8, 8), dtype=np.uint8)
PLANE[:, :4] = 1
PHOTO = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


@pytest.mark.parametrize(
    ("outputs", "kind", "names"),
    [
        ({"labels": texts([b"a", b"b", b"c"]), "probabilities": SCORES}, "best classes", ("probabilities",)),
        ({"classes": texts([b"a", b"b", b"c"]), "scores": SCORES * 3}, "best classes", ("scores",)),
        ({"class_ids": np.array([[7, 8, 9]]), "scores": SCORES * 3}, "best classes", ("scores",)),
        ({"output_0": SCORES}, "best classes", ("output_0",)),
        ({"my_logits": SCORES - 4}, "best classes", ("my_logits",)),
        ({"logits": SCORES - 4, "probabilities": SCORES}, "best classes", ("probabilities",)),
        ({"output_0": SCORES - 4}, "answers", ("output_0",)),
        ({"score": np.array([[1.0]])}, "answers", ("score",)),
        ({"class_map": PLANE, "labels": texts([b"a"]), "shares": SCORES[:, :1]}, "masks", ("class_map",)),
        ({"class_map": PLANE[..., None]}, "masks", ("class_map",)),
        ({"mask_bytes": strings(file(PLANE[0]))}, "masks", ("mask_bytes",)),
        ({"picture": strings(file(PLANE[0], "P"))}, "masks", ("picture",)),
        ({"picture": strings(file(PHOTO))}, "images", ("picture",)),
        ({"picture": strings(file(PHOTO, kind="JPEG"), b"")}, "images", ("picture",)),
        ({"picture": PHOTO[None]}, "images", ("picture",)),
        ({"text": texts(b"a"), "valid": np.array([True])}, "answers", ("text",)),
        ({"y": np.array([1.0]), "z": np.array([2])}, "answers", ("y", "z")),
        ({"y": np.array(1.0)}, "answers", ("y",)),
    ],
    ids=[
        "our classifier", "classify", "class ids", "a softmax of any name", "logits by name", "both", "any numbers",
        "one number", "our segmenter", "class map with a channel", "mask file", "palette file", "PNG", "JPEG",
        "pixels", "text", "several numbers", "a scalar",
    ],
)  # fmt: skip
def test_the_kind_is_found_in_the_answer(outputs: Outputs, kind: str, names: tuple[str, ...]) -> None:
    assert chosen(outputs) == (kind, names)


def test_a_declared_output_is_compared_by_its_own_kind() -> None:
    outputs = {"labels": texts([b"a", b"b", b"c"]), "probabilities": SCORES, "embedding": np.ones((1, 4))}
    assert chosen(outputs, "embedding") == ("answers", ("embedding",))
    assert chosen(outputs, "labels") == ("answers", ("labels",))
    with pytest.raises(CannotCompare, match="no output vector; it has labels, probabilities, embedding"):
        chosen(outputs, "vector")


def classes(*rows: dict[str, float]) -> Outputs:
    return {
        "labels": texts(*([label.encode() for label in row] for row in rows)),
        "probabilities": np.array([list(row.values()) for row in rows], dtype=np.float32),
    }


@pytest.mark.parametrize(
    ("canary", "differing"),
    [
        ({"cat": 0.7, "dog": 0.2}, ()),
        ({"cat": 0.85, "dog": 0.1}, ()),
        ({"dog": 0.2, "cat": 0.7}, ()),
        ({"cat": 0.4, "dog": 0.3}, ("cat 0.70, canary cat 0.40",)),
        ({"dog": 0.6, "cat": 0.3}, ("cat 0.70, canary dog 0.60",)),
        ({"cat": float("nan"), "dog": 0.2}, ("cat 0.70, canary NaN",)),
    ],
    ids=["the same", "shifted a little", "in another order", "shifted a lot", "another class", "NaN"],
)
def test_classes_agree_in_top_1_and_its_probability(canary: dict[str, float], differing: tuple[str, ...]) -> None:
    found = compare(classes({"cat": 0.7, "dog": 0.2}), classes(canary), Agreement(probability_shift=0.2))
    assert found.differing == differing
    assert (found.same, found.asked) == (1 - len(differing), 1)


FIVE = {"tiger cat": 0.39, "Egyptian cat": 0.3, "tabby": 0.1, "lynx": 0.05, "fox": 0.02}


@pytest.mark.parametrize(
    ("canary", "top", "alike"),
    [
        ({"Egyptian cat": 0.61, "tiger cat": 0.1, "tabby": 0.05, "lynx": 0.02, "fox": 0.01}, 5, True),
        ({"Egyptian cat": 0.61, "tiger cat": 0.1, "tabby": 0.05, "lynx": 0.02, "fox": 0.01}, 1, False),
        ({"Egyptian cat": 0.61, "tabby": 0.1, "lynx": 0.05, "fox": 0.02, "wolf": 0.01}, 5, False),
        ({"wolf": 0.61, "tiger cat": 0.1, "tabby": 0.05, "lynx": 0.02, "fox": 0.01}, 5, False),
        # All there are: nothing is left for others.
        ({"Egyptian cat": 0.61, "tiger cat": 0.1, "tabby": 0.1, "lynx": 0.1, "fox": 0.09}, 5, True),
    ],
    ids=["near ties", "near ties are not enough", "stable's is not listed", "the canary's is not listed", "near"],
)
def test_among_many_classes_near_ties_may_change_places(canary: dict[str, float], top: int, alike: bool) -> None:
    found = compare(classes(FIVE), classes(canary), Agreement(top=top))
    assert bool(found.same) == alike


def test_among_few_classes_the_best_one_has_to_be_the_same() -> None:
    all_five = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.05, "e": 0.05}
    others = {"b": 0.4, "a": 0.3, "c": 0.2, "d": 0.05, "e": 0.05}
    assert compare(classes(all_five), classes(others), Agreement()).same == 0
    dense = {"probabilities": np.array([[0.6, 0.4]])}
    assert compare(dense, {"probabilities": np.array([[0.4, 0.6]])}, Agreement()).same == 0
    many = np.full((1, 100), 0.005)
    many[0, :2] = 0.26, 0.25
    assert compare({"softmax": many}, {"softmax": many[:, ::-1][:, [99, 98, *range(98)]]}, Agreement()).same == 1


def test_logits_are_compared_as_probabilities() -> None:
    stable, near, far = ({"logits": np.array([[2.0, 0.0]]) * factor} for factor in (1, 1.2, 0.1))
    assert compare(stable, near, Agreement()).same == 1
    assert compare(stable, far, Agreement(probability_shift=0.2)).differing == ("class 0 0.88, canary class 0 0.55",)


def test_rows_are_compared_one_by_one_and_invalid_ones_left_out() -> None:
    stable = classes({"cat": 0.7}, {"dog": 0.9}, {"": 0.0}, {"cow": 0.8}) | {
        "valid": np.array([True, True, False, True])
    }
    canary = classes({"cat": 0.7}, {"cow": 0.9}, {"ant": 0.9}, {"": 0.0}) | {
        "valid": np.array([True, True, True, False])
    }
    found = compare(stable, canary, Agreement())
    assert (found.same, found.asked) == (1, 3)
    assert found.differing == ("dog 0.90, canary cow 0.90", "canary says that it is not valid")


@pytest.mark.parametrize("as_file", [False, True], ids=["class map", "PNG"])
def test_masks_agree_by_mean_iou(as_file: bool) -> None:
    def outputs(plane: NDArray[Any]) -> Outputs:
        return {"mask_bytes": strings(file(plane[0]))} if as_file else {"class_map": plane}

    shifted, wrong = np.roll(PLANE, 1, axis=2), 1 - PLANE
    shifted[:, 4, :2] = 1
    assert compare(outputs(PLANE), outputs(PLANE), Agreement()).same == 1
    assert compare(outputs(PLANE), outputs(shifted), Agreement()).same == 1
    assert compare(outputs(PLANE), outputs(wrong), Agreement()).differing[0].endswith(": IoU 0.00")
    assert (
        compare(outputs(PLANE), outputs(PLANE[:, :6]), Agreement()).differing[0].endswith("8x6 instead of 8x8 pixels")
    )


def test_mean_iou_counts_each_class_once() -> None:
    stable, canary = np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]])
    assert mean_iou(stable, canary) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mean_iou(stable, stable) == 1


def test_images_agree_by_psnr() -> None:
    noisy = PHOTO ^ 1
    stable, near, far = ({"output_bytes": strings(file(one))} for one in (PHOTO, noisy, 255 - PHOTO))
    assert psnr(PHOTO, noisy) == pytest.approx(48.13, abs=0.01)
    assert compare(stable, near, Agreement()).same == 1
    assert compare(stable, near, Agreement(image_psnr=50)).differing == ("output_bytes: PSNR 48.1 dB",)
    assert compare(stable, far, Agreement()).same == 0


def test_a_canary_whose_picture_is_broken_disagrees_and_a_broken_one_of_stable_is_left_out() -> None:
    whole, cut = file(PHOTO), file(PHOTO)[:50]
    found = compare({"picture": strings(whole)}, {"picture": strings(cut)}, Agreement())
    assert found.differing[0].startswith("picture: canary has a picture that cannot be read")
    assert compare({"picture": strings(whole)}, {"picture": strings(b"")}, Agreement()).asked == 1
    assert compare({"picture": strings(cut)}, {"picture": strings(whole)}, Agreement()).asked == 0


@pytest.mark.parametrize(
    ("stable", "canary", "alike"),
    [
        (texts(b"a"), texts(b"a"), True),
        (texts(b"a"), texts(b"A"), False),
        (np.array([1.0, 2.0]), np.array([1.01, 2.0]), True),
        (np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]]), False),
        (np.array([[1.0, np.nan]]), np.array([[1.0, np.nan]]), True),
        (np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]]), False),
        (np.array([[0.0]]), np.array([[0.0]]), True),
        (np.array([[0.0]]), np.array([[0.1]]), False),
        (np.array([[1 + 1j]]), np.array([[1 + 1.01j]]), True),
        (np.array([True]), np.array([False]), False),
        (np.array([[1.0, 2.0]]), np.array([[1.0]]), False),
        (np.array([1.0]), texts(b"1"), False),
        (np.array(4.0), np.array(4.1), True),
    ],
    ids=[
        "text", "other text", "close", "far", "NaN in both", "NaN in one", "zeros", "zero and not", "complex",
        "truth", "another shape", "number and text", "scalars",
    ],
)  # fmt: skip
def test_other_answers_are_equal_texts_and_close_numbers(
    stable: NDArray[Any], canary: NDArray[Any], alike: bool
) -> None:
    found = compare({"y": stable}, {"y": canary}, Agreement())
    assert (not found.differing) == alike


def test_class_ids_are_equal_or_not_however_close_their_numbers_are() -> None:
    stable, canary = {"class_id": np.array([1000])}, {"class_id": np.array([1001])}
    assert compare(stable, canary, Agreement()).same == 0
    assert compare({"count": stable["class_id"]}, {"count": canary["class_id"]}, Agreement()).same == 1


def test_a_canary_without_an_output_or_with_other_rows_disagrees() -> None:
    stable = classes({"cat": 0.7}, {"dog": 0.9})
    assert compare(stable, {"scores": SCORES}, Agreement()).differing == ("canary has no output probabilities",)
    found = compare(stable, classes({"cat": 0.7}), Agreement())
    assert (found.same, found.asked) == (0, 2)
    assert found.differing == ("canary answers 1 rows instead of 2",)
