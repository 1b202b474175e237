"""Faults that the preprocessing of pictures is known for, and whether a canary's answers show one.

Two good networks differ as much as a network that sees red as blue differs from itself: the share of alike answers
cannot tell them apart. But a canary that exchanges red and blue answers to a picture rather what stable answers to the
picture with red and blue exchanged, also where it is another network. So each fault is done to pictures on purpose, and
it is found where that brings the answers nearer to each other. Pillow alters the pictures.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Ranked = Mapping[Any, float]
"""Class to probability; the best ones, or all."""
Answer = Callable[[bytes], Ranked | None]
"""Of one version to one file; None where it has none."""

LEAST = 12
"""Pictures, or crops of pictures, from which a verdict is made."""
FIRST = 6
"""Pictures after which a fault that made the answers differ more is not looked for any further."""
CLEAR_T, CLEAR_GAIN = 2.5, 0.02
"""From both on the mean gain is no chance: Student's t (1 of 90 with 20 pictures), and what matters at all."""
ALIKE = 0.98
"""Share of what two answers can overlap from which on nothing is left to gain."""
_LONGEST_SIDE = 640
_SAME = 4
"""Grey levels by which thumbnails of one picture in two formats differ at most."""
_EVALUATION_CROP = 7 / 8
"""What most networks see of a picture: 224 of 256 pixels."""


def _pixels(change: Callable[[Any], Any]) -> Callable[[Image], Image]:
    def altered(image: Image) -> Image:
        from PIL import Image

        grey_levels = change(np.asarray(image, dtype=np.float32))
        return Image.fromarray(np.clip(np.rint(grey_levels), 0, 255).astype(np.uint8))

    return altered


def _exchanged(image: Image) -> Image:
    from PIL import Image

    red, green, blue = image.split()
    return Image.merge("RGB", (blue, green, red))


def _upside_down(image: Image) -> Image:
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def _transposed(image: Image) -> Image:
    from PIL import Image

    return image.transpose(Image.Transpose.TRANSPOSE)


def _colourless(image: Image) -> Image:
    return image.convert("L").convert("RGB")


def _centre(image: Image) -> Image:
    side = max(1, round(min(image.size) * _EVALUATION_CROP))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _squeezed(image: Image) -> Image:
    """The whole as a square, with a mirrored rim for stable to cut off."""
    from PIL import Image

    side = min(image.size)
    rim = round(side * (1 / _EVALUATION_CROP - 1) / 2)
    square = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(np.pad(square, ((rim, rim), (rim, rim), (0, 0)), "symmetric"))


@dataclass(frozen=True, slots=True)
class Fault:
    """`done`: what a preprocessing with this fault makes of a picture; `undone`: what that makes good again, if
    anything can."""

    name: str
    done: Callable[[Image], Image]
    undone: Callable[[Image], Image] | None = None

    @property
    def is_its_own_inverse(self) -> bool:
        return self.done is self.undone


_negative = _pixels(lambda a: 255 - a)
_pale = _pixels(lambda a: a / 2 + 63.5)
_hard = _pixels(lambda a: 2 * a - 127)

FAULTS = (
    Fault("red and blue exchanged", _exchanged, _exchanged),
    Fault("pictures upside down", _upside_down, _upside_down),
    Fault("rows and columns exchanged", _transposed, _transposed),
    Fault("negatives", _negative, _negative),
    Fault("colours lost", _colourless),
    Fault("pixels from 0 to 1 where stable has -1 to 1", _pixels(lambda a: a / 2 + 127.5)),
    Fault("pixels from -1 to 1 where stable has 0 to 1", _pixels(lambda a: 2 * a - 255)),
    Fault("the mean not subtracted", _pixels(lambda a: a + 127)),
    Fault("half the contrast (another standard deviation)", _pale, _hard),
    Fault("twice the contrast (another standard deviation)", _hard, _pale),
    Fault("whole pictures squeezed into a square", _squeezed, _centre),
)


def overlap(one: Ranked, other: Ranked) -> float:
    """Of two distributions: 1 where they are the same, 0 where no class is in both."""
    return sum(min(probability, other.get(label, 0.0)) for label, probability in one.items())


@dataclass(slots=True)
class Suspicion:
    """What was seen so far of one pair of versions; `gains` by fault, one for each picture: how much more alike the
    answers are when the fault is done to (or undone in) what one of both is sent."""

    wanted: int = 20
    """Pictures."""
    gains: dict[str, list[float]] = field(default_factory=lambda: {fault.name: [] for fault in FAULTS})
    plain: list[float] = field(default_factory=list)
    """Overlap of the answers to each picture as it is."""
    seen: set[bytes] = field(default_factory=set)
    """Digests of pictures."""

    @property
    def missing(self) -> int:
        return max(0, self.wanted - len(self.plain))

    def look(self, stable: Answer, canary: Answer, view: View) -> None:
        """At one picture. One that stable or canary cannot answer says nothing, nor does one that was looked at."""
        data = view.file()
        digest = hashlib.sha256(data).digest()
        if digest in self.seen:
            return
        self.seen.add(digest)
        mine, other = stable(data), canary(data)
        if not mine or not other:
            return
        plain = overlap(mine, other)
        looked_for = [fault for fault in FAULTS if self._is_possible(fault.name)]
        found = {fault.name: 0.0 for fault in looked_for}
        listed = min(sum(mine.values()), sum(other.values()))  # the best classes alone do not add up to 1
        for fault in looked_for if plain < ALIKE * listed else ():
            altered = view.file(fault.done)
            if not (to_done := stable(altered)):
                return
            gain = overlap(to_done, other) - plain
            if fault.undone:
                data = altered if fault.is_its_own_inverse else view.file(fault.undone)
                if not (others := canary(data)):
                    return
                # Both at once: what a network makes of any picture that is altered like this drops out.
                gain += overlap(mine, others) - (overlap(to_done, others) if fault.is_its_own_inverse else plain)
            found[fault.name] = gain
        self.plain.append(plain)
        for name, gain in found.items():
            self.gains[name].append(gain)

    def _is_possible(self, name: str) -> bool:
        gains = self.gains[name]
        return len(gains) < FIRST or (len(gains) == len(self.plain) and sum(gains) > 0)

    def likeliest(self) -> tuple[str, float, float]:
        """Its name, its mean gain and Student's t: of those that are clear the one with the largest gain, else the
        clearest."""
        whole = [(name, gains) for name, gains in self.gains.items() if 1 < len(gains) == len(self.plain)]
        known = {name: (statistics.fmean(gains), _t(gains)) for name, gains in whole}
        clear = [name for name, (gain, t) in known.items() if t >= CLEAR_T and gain >= CLEAR_GAIN]
        name = max(clear, key=lambda one: known[one][0], default=max(known, key=lambda one: known[one][1], default=""))
        return (name, *known[name]) if name else ("", 0.0, 0.0)

    def __str__(self) -> str:
        """The fault that canary shows; empty while none is clear."""
        name, gain, t = self.likeliest()
        if len(self.plain) < LEAST or t < CLEAR_T or gain < CLEAR_GAIN:
            return ""
        return (
            f"canary's preprocessing looks wrong: {name} (done on purpose, that brings its answers nearer to stable's "
            f"by {gain:.2f} of an overlap of {statistics.fmean(self.plain):.2f}, {len(self.plain)} pictures and crops)"
        )


def _t(values: list[float]) -> float:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if deviation < 1e-9:
        return math.copysign(math.inf, mean) if abs(mean) > 1e-9 else 0.0
    return mean / deviation * math.sqrt(len(values))


@dataclass(frozen=True, slots=True)
class View:
    """A picture, and whether it came as JPEG: a model may read nothing else, or not even that."""

    image: Image
    is_jpeg: bool

    def file(self, altered: Callable[[Image], Image] = lambda image: image) -> bytes:
        """PNG, or JPEG with hardly a loss."""
        out = io.BytesIO()
        if self.is_jpeg:
            altered(self.image).save(out, "JPEG", quality=95, subsampling=0)
        else:
            altered(self.image).save(out, "PNG", compress_level=1)
        return out.getvalue()


def views(files: Sequence[bytes], count: int) -> list[View]:
    """`count` pictures: each file as it is, then crops of them in turn, always the same ones. What is no picture, or
    another file of the same one, is left out; empty without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return []
    found: list[View] = []
    small: list[Any] = []
    for data in files:
        try:
            with Image.open(io.BytesIO(data)) as file:
                file.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
                image = file.convert("RGB")
                is_jpeg = file.format == "JPEG"
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        look = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.int16)
        if all(np.abs(look - other).max() > _SAME for other in small):
            small.append(look)
            image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
            found.append(View(image, is_jpeg))
    whole, chance = found[:count], random.Random(3)  # noqa: S311  the same crops at each check
    crops = (_crop(whole[index % len(whole)], chance) for index in range(count - len(whole) if whole else 0))
    return [*whole, *crops]


def _crop(view: View, chance: random.Random) -> View:
    part, image = chance.uniform(0.55, 0.9), view.image
    width, height = (max(1, round(side * part)) for side in image.size)
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return View(image.crop((left, top, left + width, top + height)), view.is_jpeg)
