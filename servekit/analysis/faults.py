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
"""Of one version to one file; None where it has none, or other numbers than probabilities."""

LEAST = 12
"""Pictures, or crops of pictures, from which a verdict is made."""
FIRST = 6
"""Pictures after which a fault that made the answers differ more is not looked for any further."""
CLEAR_GAIN = 0.02
"""Mean gain that matters at all."""
CLEAR_T, CLEAR_T_ONE_WAY = 2.5, 3.0
"""Student's t from which it is no chance (1 of 90 with 20 pictures; 1 of 270). More is asked of a fault that cannot be
done on both sides alike: there, what two good networks make of altered pictures does not cancel out."""
ALIKE = 0.98
"""Share of what two answers can overlap from which on nothing is left to gain."""
_KEPT = 20
"""Classes of an answer."""
_UNLISTED = 100
"""Classes that share what the listed ones leave: so many matter at most."""
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
    anything can. `is_contrast`: a network that is less sure throughout answers like that, too, and has no fault."""

    name: str
    done: Callable[[Image], Image]
    undone: Callable[[Image], Image] | None = None
    is_contrast: bool = False

    @property
    def is_its_own_inverse(self) -> bool:
        return self.done is self.undone

    @property
    def clear_t(self) -> float:
        return CLEAR_T if self.is_its_own_inverse else CLEAR_T_ONE_WAY


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
    Fault("half the contrast (another standard deviation)", _pale, _hard, is_contrast=True),
    Fault("twice the contrast (another standard deviation)", _hard, _pale, is_contrast=True),
    Fault("whole pictures squeezed into a square", _squeezed, _centre),
)


def overlap(one: Ranked, other: Ranked) -> float:
    """Of two distributions: 1 where they are the same, 0 where no class is in both."""
    return sum(min(probability, other.get(label, 0.0)) for label, probability in one.items())


def surer(answer: Ranked, exponent: float) -> Ranked:
    """Probabilities to a power, as another temperature of the softmax makes them; classes that are not listed count."""
    rest = max(0.0, 1.0 - sum(answer.values()))
    powers = {label: probability**exponent for label, probability in answer.items()}
    total = sum(powers.values()) + _UNLISTED * (rest / _UNLISTED) ** exponent
    return {label: power / total for label, power in powers.items()} if total > 0 else answer


@dataclass(frozen=True, slots=True)
class Seen:
    """Answers to one picture: of both versions to it as it is, and by fault, stable's with the fault done and canary's
    with it undone."""

    stable: Ranked
    canary: Ranked
    done: Mapping[str, Ranked]
    undone: Mapping[str, Ranked]

    def gain(self, fault: Fault, exponent: float) -> float:
        """How much more alike the answers are with the fault than without; canary's made surer by `exponent`."""
        mine, other = surer(self.stable, 1.0), surer(self.canary, exponent)
        to_done, plain = surer(self.done[fault.name], 1.0), overlap(mine, other)
        gain = overlap(to_done, other) - plain
        if fault.undone is None:
            return gain
        others = surer(self.undone[fault.name], exponent)
        # Both at once: what a network makes of any picture that is altered like this drops out.
        return gain + overlap(mine, others) - (overlap(to_done, others) if fault.is_its_own_inverse else plain)


@dataclass(slots=True)
class Suspicion:
    """What was seen so far of one pair of versions, and what follows from it."""

    wanted: int = 20
    """Pictures."""
    seen: list[Seen] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)
    """Faults that made the answers differ more."""
    digests: set[bytes] = field(default_factory=set)
    """Of pictures that both could answer."""

    @property
    def missing(self) -> int:
        return max(0, self.wanted - len(self.seen))

    def look(self, stable: Answer, canary: Answer, view: View) -> None:
        """At one picture. One that stable or canary cannot answer says nothing, nor does one that was looked at."""
        data = view.file()
        digest = hashlib.sha256(data).digest()
        if digest in self.digests:
            return
        mine, other = stable(data), canary(data)
        if not mine or not other:
            return
        done, undone = dict[str, Ranked](), dict[str, Ranked]()
        listed = min(sum(mine.values()), sum(other.values()))  # the best classes alone do not add up to 1
        differ = overlap(mine, other) < ALIKE * listed
        for fault in FAULTS:
            if fault.name in self.given_up:
                continue
            answers: list[Ranked | None] = [mine, other]
            if differ:
                altered = view.file(fault.done)
                answers[0] = stable(altered)
                if fault.undone:
                    answers[1] = canary(altered if fault.is_its_own_inverse else view.file(fault.undone))
            if not answers[0] or not answers[1]:
                return
            done[fault.name], undone[fault.name] = _best(answers[0]), _best(answers[1])
        self.digests.add(digest)
        self.seen.append(Seen(_best(mine), _best(other), done, undone))
        if len(self.seen) >= FIRST:
            exponent = self.exponent()
            self.given_up |= {fault.name for fault in self._left() if sum(self._gains(fault, exponent)) <= 0}

    def exponent(self) -> float:
        """With which canary is as sure as stable is, on average."""
        goal = statistics.fmean(max(surer(one.stable, 1.0).values()) for one in self.seen)
        low, high = 0.1, 10.0
        for _ in range(20):
            middle = math.sqrt(low * high)
            sure = statistics.fmean(max(surer(one.canary, middle).values()) for one in self.seen)
            low, high = (middle, high) if sure < goal else (low, middle)
        return math.sqrt(low * high)

    def likeliest(self) -> tuple[str, float, float]:
        """Its name, its mean gain and Student's t: of those that are clear the one with the largest gain, else the
        clearest; "" where none is left."""
        if len(self.seen) < 2:
            return "", 0.0, 0.0
        exponent, known = self.exponent(), dict[str, tuple[float, float]]()
        for fault in self._left():
            gains = self._gains(fault, exponent)
            known[fault.name] = statistics.fmean(gains), _t(gains)
        clear = [name for name, (gain, t) in known.items() if _is_clear(name, gain, t)]
        name = max(clear, key=lambda one: known[one][0], default=max(known, key=lambda one: known[one][1], default=""))
        return (name, *known[name]) if name else ("", 0.0, 0.0)

    def __str__(self) -> str:
        """The fault that canary shows; empty while none is clear."""
        name, gain, t = self.likeliest()
        if len(self.seen) < LEAST or not name or not _is_clear(name, gain, t):
            return ""
        return (
            f"canary's preprocessing looks wrong: {name} (done on purpose, that brings its answers nearer to stable's "
            f"by {gain:.2f} of an overlap of {self.overlap():.2f}, {len(self.seen)} pictures and crops)"
        )

    def overlap(self) -> float:
        """Of the answers to the pictures as they are, on average."""
        return statistics.fmean(overlap(one.stable, one.canary) for one in self.seen)

    def _left(self) -> list[Fault]:
        return [fault for fault in FAULTS if fault.name not in self.given_up]

    def _gains(self, fault: Fault, exponent: float) -> list[float]:
        return [one.gain(fault, exponent if fault.is_contrast else 1.0) for one in self.seen]


def _is_clear(name: str, gain: float, t: float) -> bool:
    return gain >= CLEAR_GAIN and t >= next(fault.clear_t for fault in FAULTS if fault.name == name)


def _best(answer: Ranked) -> Ranked:
    return dict(sorted(answer.items(), key=lambda item: -item[1])[:_KEPT])


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
