"""The short clip of the demo: things of the sample scene that move over a photograph, one behind another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from samples import SCENE, Box, Prompt, bounding_box, scene_objects

SIZE = 480, 360  # width and height
FRAMES = 30
FRAMES_PER_SECOND = 10

RGB = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Mover:
    """A thing of the sample scene and its way through the clip.

    Attributes:
        number: of the thing in sample_scene_objects.png.
        zoom: its size in the clip over that in the scene.
        start, end: (x, y) of its middle in the first and the last frame.
        turn: degrees that it turns by, in all.
    """

    number: int
    zoom: float
    start: tuple[float, float]
    end: tuple[float, float]
    turn: float = 0.0

    def draw(self, canvas: Image.Image, labels: Image.Image, label: int, cut: Image.Image, t: float) -> None:
        """Draw it as it is at a time from 0 to 1, with a soft shadow, and its label where it is."""
        turned = cut.rotate(self.turn * t, Image.Resampling.BICUBIC, expand=True)
        x, y = (a + (b - a) * t for a, b in zip(self.start, self.end, strict=True))
        corner = round(x - turned.width / 2), round(y - turned.height / 2)
        shadow = turned.getchannel("A").filter(ImageFilter.GaussianBlur(5)).point(lambda value: value * 0.45)
        canvas.paste((0, 0, 0), (corner[0] + 4, corner[1] + 7), shadow)
        canvas.paste(turned, corner, turned)
        labels.paste(label, corner, turned.getchannel("A").point(lambda value: 255 * (value > 127)))


#: From behind to front. The tomato rolls past behind the pot; the taxi drives the other way.
MOVERS = (
    Mover(7, 0.62, (60, 250), (420, 240), turn=25),
    Mover(10, 0.55, (265, 160), (245, 165)),
    Mover(1, 0.85, (330, 312), (70, 316)),
)


def ground() -> Image.Image:
    """A photograph of a wall from scikit-image, toned."""
    from skimage import data

    wall = Image.fromarray(data.brick()).resize((SIZE[0], SIZE[0]), Image.Resampling.LANCZOS).crop((0, 0, *SIZE))
    return Image.merge("RGB", [wall.point(lambda value, k=k: value * k) for k in (0.75, 0.85, 1.0)])


def cut_out(number: int, zoom: float) -> Image.Image:
    """A thing of the sample scene with transparency around it."""
    mask = scene_objects()[number]
    scene = Image.open(SCENE).convert("RGB")
    alpha = Image.fromarray(np.uint8(255 * mask)).filter(ImageFilter.GaussianBlur(0.8))
    scene.putalpha(alpha)
    x0, y0, x1, y1 = bounding_box(mask)
    piece = scene.crop((x0 - 30, y0 - 30, x1 + 30, y1 + 30))  # with room for the shadow
    return piece.resize((round(piece.width * zoom), round(piece.height * zoom)), Image.Resampling.LANCZOS)


def prompt() -> Prompt:
    """Boxes around the tomato and the taxi in the first frame."""
    return Prompt(boxes=[_box(MOVERS[0]), _box(MOVERS[2])])


def _box(mover: Mover) -> Box:
    x0, y0, x1, y1 = bounding_box(scene_objects()[mover.number])
    wide, high = (length * mover.zoom / 2 for length in (x1 - x0, y1 - y0))
    x, y = mover.start
    return round(x - wide), round(y - high), round(x + wide), round(y + high)


def frames() -> Iterator[tuple[RGB, npt.NDArray[np.uint8]]]:
    """The frames, (H, W, 3) uint8 RGB, and for each the truth, (H, W) uint8: 1, 2, 3 where the movers are seen, else 0."""
    wall = ground()
    cuts = [cut_out(mover.number, mover.zoom) for mover in MOVERS]
    for k in range(FRAMES):
        canvas, labels = wall.copy(), Image.new("L", SIZE)
        for label, (mover, cut) in enumerate(zip(MOVERS, cuts, strict=True), start=1):
            mover.draw(canvas, labels, label, cut, k / (FRAMES - 1))
        yield np.asarray(canvas), np.asarray(labels)
