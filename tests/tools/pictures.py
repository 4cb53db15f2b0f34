"""Draws what lies in images/: the sample scene, the icon and the README's pictures.

pictures.py                    the icon, and the pictures from runs of the plugin with the bundled model
pictures.py --emoji FOLDER     the sample scene before that, from the .webp files of @lobehub/fluent-emoji-3d
                               (needs models/requirements-training.txt)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo import (
    AUTOMATIC,
    GREEN,
    PALETTE,
    POT,
    ROOT,
    SCENE,
    SCENE_OBJECTS,
    WHITE,
    Box,
    DemoError,
    Prompt,
    Result,
    SegmentingWorkflow,
    Tile,
    bounding_box,
    contact_sheet,
    deepest,
    photo_sample,
    prepare_home,
    scene_objects,
    with_prompt,
)
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import binary_erosion

IMAGES = ROOT / "images"
MODEL = "sam2_hiera_nano"

#: The held-out objects that the scene may show (names of files of the package), and the seed that arranges them well.
SCENE_POOL = [
    *("1f345", "1f34f", "1f36b", "1f372", "1f3b8", "1f3a8", "1f415-200d-1f9ba", "1f41a", "1f451", "1f4ec", "1f695"),
    *("1f6e1-fe0f", "1f947", "1f9cb", "1f9e1", "1face", "1f9ca", "1f3b1", "23f3", "1f366", "1f4d5", "1f3d5-fe0f"),
    *("2697-fe0f", "1f4c2", "1fad5"),
]
#: After a change of models/scenes.py it may be another scene: then look for a good seed anew, and for the numbers of
#: the objects, here and in demo.py.
SCENE_SEED, SCENE_SIZE = 9440, 640
#: Parts of objects with fewer pixels than this are left out of the label image: nobody would point at them.
SCENE_SMALLEST = 2000

#: More objects of the sample scene than the demo points at, by their number in sample_scene_objects.png.
TAXI, TEA, TOMATO = 1, 4, 7

#: Half the width in pixels of the smallest fault that a point is put on.
CLICKABLE = 6

#: Widths in pixels of the tiles of a picture that has two or three. READMEs show them at half that: crisp.
TWO, THREE = 640, 512
TEXT_SIZE = 26

#: Bytes.
LARGE = 700_000  # bytes

Mask = npt.NDArray[np.bool_]


# --- The sample scene --------------------------------------------------------------------------------------------


def draw_scene(emoji: Path) -> None:
    """Compose the sample scene and its label image from objects that the bundled model was never trained on."""
    sys.path.insert(0, str(ROOT / "models"))
    from scenes import emoji_split, scene

    _, held_out = emoji_split(str(emoji))
    pool = sorted(file for file in held_out if Path(file).stem in SCENE_POOL)
    composed = scene(SCENE_SEED, SCENE_SIZE, pool, "plain")
    labels = np.zeros(composed.image.shape[:2], np.uint8)
    for k, mask in enumerate((m for m in composed.masks if m.sum() >= SCENE_SMALLEST), start=1):
        labels[mask] = k
    Image.fromarray(composed.image).save(SCENE, optimize=True)
    Image.fromarray(labels).save(SCENE_OBJECTS, optimize=True)


# --- The icon ----------------------------------------------------------------------------------------------------

ICON_SIZE, SUPERSAMPLED = 256, 4

INDIGO, VIOLET, AMBER, PALE = (49, 46, 129), (124, 58, 237), (251, 191, 36), (224, 231, 255)


def _rounded(mask: Image.Image, radius: float, level: int = 128) -> Image.Image:
    """The mask with its corners rounded; a lower `level` makes it grow."""
    return mask.filter(ImageFilter.GaussianBlur(radius)).point(lambda value: 255 * (value >= level))


def draw_icon(size: int = ICON_SIZE) -> Image.Image:
    """A cat's head under a mask, in a dashed box, with a prompt point for a nose."""
    side = size * SUPERSAMPLED
    unit = side / 256  # coordinates below are those of the 256 px icon

    def scaled(*values: float) -> list[float]:
        return [value * unit for value in values]

    slope = np.add.outer(np.linspace(0, 0.75, side), np.linspace(0, 0.25, side))[..., None]
    icon = Image.fromarray(np.uint8(np.array(VIOLET) * (1 - slope) + np.array(INDIGO) * slope))
    pen = ImageDraw.Draw(icon)
    low, high, dashes, thick = 36.0, 220.0, 3, 10.0  # a dash at each corner, and one in between
    step = (high - low) / (2 * dashes - 1)
    for i in range(0, 2 * dashes - 1, 2):
        a, b = low + i * step, low + (i + 1) * step
        for line in ((a, low, b, low), (a, high, b, high), (low, a, low, b), (high, a, high, b)):
            pen.line(scaled(*line), fill=PALE, width=round(thick * unit))
            for x, y in (line[:2], line[2:]):
                pen.ellipse(scaled(x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=PALE)

    head = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(head)
    pen.ellipse(scaled(60, 86, 196, 200), fill=255)
    for flip in (1, -1):
        ear = [(128 + flip * x, y) for x, y in ((-66, 134), (-60, 55), (-8, 100))]
        pen.polygon([(x * unit, y * unit) for x, y in ear], fill=255)
    head = _rounded(head, 6 * unit)
    icon.paste(WHITE, mask=_rounded(head, 7 * unit, 30))
    icon.paste(AMBER, mask=head)

    pen = ImageDraw.Draw(icon)
    for x in (97, 159):
        pen.ellipse(scaled(x - 8, 116, x + 8, 138), fill=INDIGO)
    for radius, colour in ((21, WHITE), (14, GREEN)):
        pen.ellipse(scaled(128 - radius, 160 - radius, 128 + radius, 160 + radius), fill=colour)
    tile = Image.new("L", (side, side), 0)
    ImageDraw.Draw(tile).rounded_rectangle(scaled(4, 4, 252, 252), 58 * unit, fill=255)
    icon.putalpha(tile)
    return icon.resize((size, size), Image.Resampling.LANCZOS)


# --- The README's pictures ---------------------------------------------------------------------------------------


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks (H, W)."""
    return float((a & b).sum() / max((a | b).sum(), 1))


@dataclass(frozen=True)
class Correction:
    """A prompt that falls short on one object, and the same prompt with the point that helps most."""

    before: Prompt
    after: Prompt
    results: tuple[Result, Result]
    truth: Mask
    merit: float


class Painter:
    """Runs the plugin on the sample scene and draws what comes out."""

    def __init__(self) -> None:
        self.workflow = SegmentingWorkflow("pictures", MODEL)
        self.truth = scene_objects()
        self.scene = np.asarray(Image.open(SCENE))

    def run(self, prompt: Prompt, **parameters: str) -> Result:
        """Segment the sample scene."""
        return self.workflow.segment(SCENE, prompt, **parameters)

    def correction(self, firsts: Callable[[Mask], Sequence[Prompt]], background_only: bool) -> Correction:
        """The prompt and object for which a point in the middle of what went wrong helps most and ends well."""
        best = None
        for truth in self.truth.values():
            for before in firsts(truth):
                result = self.run(before)
                mask = result.labels[0] > 0
                wrong = {0: mask & ~truth} if background_only else {0: mask & ~truth, 1: truth & ~mask}
                label, region = max(wrong.items(), key=lambda item: item[1].sum())
                if not binary_erosion(region, iterations=CLICKABLE).any():
                    continue
                labels = [*(before.labels or [1] * len(before.points)), label]
                after = Prompt([*before.points, deepest(region)], labels, before.boxes)
                corrected = self.run(after)
                end = iou(corrected.labels[0] > 0, truth)
                merit = end + (end - iou(mask, truth))
                if best is None or merit > best.merit:
                    best = Correction(before, after, (result, corrected), truth, merit)
        if best is None:
            raise DemoError("No mask of the sample scene has anything to correct.")
        return best

    def result(self) -> Image.Image:
        """The picture at the top of the README."""
        result = self.run(Prompt(), **AUTOMATIC[MODEL])
        return row(
            Tile(with_prompt(self.scene, Prompt(), TWO), "A picture"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), "Everything in it", f"{len(result.found)} masks"),
        )

    def prompt_point(self) -> Image.Image:
        """One point and the three masks that may be meant."""
        prompt = Prompt(points=[deepest(self.truth[POT])])
        result = self.run(prompt, multimask_output="True")
        view = view_of([self.truth[POT], *(labels > 0 for labels in result.labels)])
        return row(
            *(
                Tile(with_prompt(overlay, prompt, THREE, view), f"Mask {k}", f"predicted IoU {found.score:.2f}")
                for k, (overlay, found) in enumerate(zip(result.overlays, result.found, strict=True), start=1)
            )
        )

    def prompt_points(self) -> Image.Image:
        """A point on the object, then one more on what is not the object."""
        shown = self.correction(lambda truth: [Prompt(points=[p]) for p in inner_points(truth)], background_only=True)
        return before_and_after(shown, ("One point", "on the object"), ("Two points", "one on what is not the object"))

    def prompt_boxes(self) -> Image.Image:
        """Several boxes, one object each."""
        prompt = Prompt(boxes=[bounding_box(self.truth[k]) for k in (POT, PALETTE, TAXI, TEA, TOMATO)])
        result = self.run(prompt)
        return row(
            Tile(with_prompt(self.scene, prompt, TWO), f"{len(prompt.boxes)} boxes"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), f"{len(result.found)} masks", "one for each box"),
        )

    def prompt_box_and_point(self) -> Image.Image:
        """A box, then the same box with a point."""
        shown = self.correction(lambda truth: [Prompt(boxes=[bounding_box(truth)])], background_only=False)
        where = "on the object" if shown.after.labels[0] else "on what is not the object"
        return before_and_after(shown, ("A box", ""), ("The box and a point", where))

    def automatic(self) -> Image.Image:
        """A photograph and everything in it."""
        with tempfile.TemporaryDirectory() as folder:
            sample = photo_sample(Path(folder))
            result = self.workflow.segment(sample.path, Prompt(), **AUTOMATIC[MODEL])
            photo = np.asarray(Image.open(sample.path))
        return row(
            Tile(with_prompt(photo, Prompt(), TWO), "A photograph"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), "Automatic mode", f"{len(result.found)} masks"),
        )


def row(*tiles: Tile) -> Image.Image:
    """Tiles side by side."""
    return contact_sheet([tiles], text_size=TEXT_SIZE)


def before_and_after(shown: Correction, *captions: Sequence[str]) -> Image.Image:
    """The two masks of a correction side by side."""
    view = view_of([shown.truth, *(result.labels[0] > 0 for result in shown.results)])
    return row(
        *(
            Tile(with_prompt(result.overlays[0], prompt, TWO, view), *caption)
            for result, prompt, caption in zip(shown.results, (shown.before, shown.after), captions, strict=True)
        )
    )


def inner_points(mask: Mask) -> list[tuple[float, float]]:
    """(x, y) of the deepest points of a mask (H, W) and of its left, right, upper and lower half."""
    x0, y0, x1, y1 = bounding_box(mask)
    points = [deepest(mask)]
    for rows, columns in ((0, (x0 + x1) // 2), ((y0 + y1) // 2, 0)):
        for part in (np.s_[rows:, columns:], np.s_[: rows or None, : columns or None]):
            half = np.zeros_like(mask)
            half[part] = mask[part]
            points.append(deepest(half))
    return points


def view_of(masks: Sequence[Mask]) -> Box:
    """A square part of the picture that shows all of the masks (H, W) and what surrounds them."""
    together = np.any(masks, axis=0)
    x0, y0, x1, y1 = bounding_box(together)
    side = min(max(round(1.3 * max(x1 - x0, y1 - y0)), 240), *together.shape)
    left, top = (
        min(max((low + high - side) // 2, 0), full - side)
        for low, high, full in ((x0, x1, together.shape[1]), (y0, y1, together.shape[0]))
    )
    return left, top, left + side, top + side


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of the README; one that would be large, as a photograph is, in 256 colours."""
    picture.save(IMAGES / name, optimize=True)
    if (IMAGES / name).stat().st_size > LARGE:
        palette = picture.quantize(256, Image.Quantize.MEDIANCUT)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(IMAGES / name, optimize=True)
    print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", type=Path, help="folder of .webp files: compose the sample scene again")
    parser.add_argument("--home", type=Path, help="folder in which Ikomia keeps its files (default: HOME)")
    args = parser.parse_args()
    try:
        prepare_home(args.home)
        if args.emoji is not None:
            draw_scene(args.emoji)
        draw_icon().save(IMAGES / "icon.png", optimize=True)
        painter = Painter()
        for draw in (
            painter.result,
            painter.prompt_point,
            painter.prompt_points,
            painter.prompt_boxes,
            painter.prompt_box_and_point,
            painter.automatic,
        ):
            save(draw(), f"{draw.__name__}.png")
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
