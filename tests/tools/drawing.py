"""Pictures with prompts and names on them, side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from samples import Box, Point, Prompt

RGB = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

GREEN, RED, BLUE, WHITE, INK = (22, 163, 74), (220, 38, 38), (37, 99, 235), (255, 255, 255), (31, 41, 55)


def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def draw_dot(picture: Image.Image, centre: Point, radius: float, colour: Colour) -> None:
    """A dot with a white rim, smooth: drawn large and reduced, as PIL draws without antialiasing."""
    scale, side = 8, 2 * round(radius) + 5
    large = Image.new("RGBA", (side * scale,) * 2, (*WHITE, 0))
    pen, middle = ImageDraw.Draw(large), side * scale / 2
    for r, fill in ((radius + 1, (0, 0, 0, 90)), (radius, (*WHITE, 255)), (radius * 0.7, (*colour, 255))):
        pen.ellipse([middle - r * scale, middle - r * scale, middle + r * scale, middle + r * scale], fill=fill)
    dot = large.resize((side, side), Image.Resampling.BOX)
    picture.paste(dot, (round(centre[0] - side / 2), round(centre[1] - side / 2)), dot)


def with_prompt(image: RGB, prompt: Prompt, width: int | None = None, view: Box | None = None) -> Image.Image:
    """The picture with the prompt on it: points as dots, boxes as outlines.

    Only the part `view` of it, if given; resized to `width`, if given.
    """
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3]))
    left, top = view[:2] if view else (0, 0)
    if view:
        picture = picture.crop(view)
    zoom = 1.0 if width is None else width / picture.width
    if zoom != 1:
        picture = picture.resize((round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.LANCZOS)
    pen, unit = ImageDraw.Draw(picture), max(1.0, max(picture.size) / 200)
    for box in prompt.boxes:
        x0, y0, x1, y1 = (round((v - o) * zoom) for v, o in zip(box, (left, top) * 2, strict=True))
        for colour, half in ((WHITE, 0.8), (BLUE, 0.4)):
            frame = [x0 - half * unit, y0 - half * unit, x1 - 1 + half * unit, y1 - 1 + half * unit]
            pen.rectangle(frame, outline=colour, width=max(1, round(2 * half * unit)))
    labels = prompt.labels or [1] * len(prompt.points)
    for (x, y), label in zip(prompt.points, labels, strict=True):
        draw_dot(picture, ((x - left + 0.5) * zoom, (y - top + 0.5) * zoom), 2.6 * unit, GREEN if label else RED)
    return picture


@dataclass(frozen=True)
class Named:
    """Something that was found in a picture: its name and its box (x0, y0, x1, y1) in pixels."""

    name: str
    box: Box


def with_names(image: RGB, things: Sequence[Named], width: int | None = None) -> Image.Image:
    """The picture with the boxes of things and their names, resized to `width`, if given."""
    picture = with_prompt(image, Prompt(boxes=[thing.box for thing in things]), width)
    zoom, text = picture.width / image.shape[1], font(max(11.0, picture.width / 32))
    pen, taken = ImageDraw.Draw(picture), []
    for thing in things:
        size = round(pen.textlength(thing.name, font=text) + 0.6 * text.size), round(1.4 * text.size)
        places = _beside_box([round(v * zoom) for v in thing.box], size, picture.size)
        left, top, right, bottom = next((p for p in places if not any(_overlap(p, t) for t in taken)), places[0])
        taken.append((left, top, right, bottom))
        pen.rectangle([left, top, right - 1, bottom - 1], fill=BLUE)
        pen.text(((left + right) / 2, (top + bottom) / 2), thing.name, font=text, fill=WHITE, anchor="mm")
    return picture


def _beside_box(box: Sequence[int], size: tuple[int, int], picture: tuple[int, int]) -> list[Sequence[int]]:
    """Where a name of that size can go, the best place first: above its box, below it, or in it, from top to bottom."""
    x0, y0, x1, y1 = box
    places = []
    for y in (y0 - size[1], y1, *range(y0, y1, size[1])):
        for x in (x0, x1 - size[0]):
            left, top = (min(max(at, 0), full - own) for at, full, own in zip((x, y), picture, size, strict=True))
            places.append((left, top, left + size[0], top + size[1]))
    return places


def _overlap(a: Sequence[int], b: Sequence[int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet and the caption below it: a bold word or two, and a few more."""

    picture: Image.Image
    title: str
    text: str = ""


def contact_sheet(rows: Sequence[Sequence[Tile]], text_size: int = 20, gap: int = 16) -> Image.Image:
    """Tiles in rows on white, captions below each; tiles of one row begin at the same height."""
    bold, plain = font(text_size, bold=True), font(text_size)
    caption = round(text_size * 1.9)
    width = max(sum(tile.picture.width + gap for tile in row) for row in rows) + gap
    heights = [max(tile.picture.height for tile in row) + caption for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) + gap * (len(rows) + 1) - gap // 2), WHITE)
    pen, y = ImageDraw.Draw(sheet), gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for tile in row:
            sheet.paste(tile.picture, (x, y))
            baseline = y + tile.picture.height + round(text_size * 1.4)
            pen.text((x, baseline), tile.title, font=bold, fill=INK, anchor="ls")
            after = x + pen.textlength(tile.title + "  ", font=bold)
            pen.text((after, baseline), tile.text, font=plain, fill=INK, anchor="ls")
            x += tile.picture.width + gap
        y += height + gap
    return sheet
