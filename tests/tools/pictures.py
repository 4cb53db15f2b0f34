"""Draws what lies in images/: the sample scene, the icon and the README's pictures.

pictures.py                    the icon, and the pictures from runs of the plugin with the bundled model
pictures.py --emoji FOLDER     the sample scene before that, from the .webp files of @lobehub/fluent-emoji-3d
                               (needs models/requirements-training.txt)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo import Result, SegmentingWorkflow, prepare_home, sample_clip
from drawing import GREEN, INK, RGB, WHITE, Tile, contact_sheet, font, with_names, with_prompt
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from samples import (
    AUTOMATIC,
    PALETTE,
    POT,
    ROOT,
    SCENE,
    SCENE_OBJECTS,
    Box,
    DemoError,
    Prompt,
    bounding_box,
    photo_sample,
    scene_objects,
)
from scipy import ndimage

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

#: The prompts of the README's pictures, which are those of its text: the taxi; soup or pot; a shell; pot, palette
#: and taxi; of pot and palette in one box only the pot.
CLICK = Prompt(points=[(593, 431)])
POINT = Prompt(points=[(233, 236)])
ONE_POINT = Prompt(points=[(195, 600)], labels=[1])
TWO_POINTS = Prompt(points=[(195, 600), (137, 559)], labels=[1, 0])
BOXES = Prompt(boxes=[(101, 132, 343, 386), (293, 222, 545, 491), (526, 387, 630, 481)])
BOX = Prompt(boxes=[(101, 132, 545, 491)])
BOX_AND_POINTS = Prompt(points=[(197, 273), (500, 420)], labels=[1, 0], boxes=BOX.boxes)

#: What a detector finds, and the numbers of these objects in the label image of the scene.
NAMED = {"pot": POT, "palette": PALETTE, "taxi": 1, "ice cream": 8, "shell": 12, "pavilion": 9}

#: What is drawn in the picture of Studio: the taxi, and the shell as another object, with a point beside it.
DRAWN = Prompt(points=[*CLICK.points, *TWO_POINTS.points], labels=[1, 1, 0])
DRAWN_CATEGORIES = ("Foreground", "object 2", "Background")

#: Widths in pixels of the tiles of a picture that has two or three, and of its text. The README shows them at half that or
#: less: crisp on a desk, and the text still to be read on a phone.
TWO, THREE = 640, 512
TEXT_SIZE = 32

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


class Painter:
    """Runs the plugin on the sample scene and draws what comes out."""

    def __init__(self) -> None:
        self.workflow = SegmentingWorkflow("pictures", MODEL)
        self.truth = scene_objects()
        self.scene = np.asarray(Image.open(SCENE))

    def run(self, prompt: Prompt, **parameters: str) -> Result:
        """Segment the sample scene."""
        return self.workflow.segment(SCENE, prompt, **parameters)

    def result(self) -> Image.Image:
        """The picture at the top of the README: a photograph of coins with boxes, and the mask in each."""
        photo = coins()
        boxes = Prompt(boxes=boxes_of_bright_things(photo))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "coins.png")
            Image.fromarray(photo).save(path)
            result = self.workflow.segment(path, boxes)
        return row(
            Tile(with_prompt(photo, boxes, TWO), f"{len(boxes.boxes)} boxes"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), f"{len(result.found)} masks", "one for each box"),
        )

    def prompt_point(self) -> Image.Image:
        """One point and the three masks that may be meant."""
        result = self.run(POINT, multimask_output="True")
        view = view_of([self.truth[POT], *(labels > 0 for labels in result.labels)])
        return row(
            *(
                Tile(with_prompt(overlay, POINT, THREE, view), f"Mask {k}", f"IoU {found.score:.2f}")
                for k, (overlay, found) in enumerate(zip(result.overlays, result.found, strict=True), start=1)
            )
        )

    def prompt_points(self) -> Image.Image:
        """A point on the object, then one more on what is not the object."""
        return self.before_and_after(ONE_POINT, "One point", TWO_POINTS, "Two points")

    def prompt_boxes(self) -> Image.Image:
        """Several boxes, one object each."""
        result = self.run(BOXES)
        return row(
            Tile(with_prompt(self.scene, BOXES, TWO), f"{len(BOXES.boxes)} boxes"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), f"{len(result.found)} masks", "one for each box"),
        )

    def prompt_box_and_points(self) -> Image.Image:
        """A box around two objects, then the same box with points on the one that is meant and the one that is not."""
        return self.before_and_after(BOX, "A box", BOX_AND_POINTS, "The same with points")

    def before_and_after(self, before: Prompt, title: str, after: Prompt, then: str) -> Image.Image:
        """The masks of two prompts side by side, from near."""
        results = self.run(before), self.run(after)
        view = view_of([result.labels[0] > 0 for result in results])
        return row(
            *(
                Tile(with_prompt(result.overlays[0], prompt, TWO, view), text)
                for result, prompt, text in zip(results, (before, after), (title, then), strict=True)
            )
        )

    def after_a_detector(self) -> Image.Image:
        """What a detector finds and names, the masks of it, and each of them with its name."""
        from by_hand import DetectorByHand

        boxes_of = {name: bounding_box(self.truth[number]) for name, number in NAMED.items()}
        result = SegmentingWorkflow("detector", MODEL, DetectorByHand(boxes_of)).segment(SCENE, Prompt())
        boxes, masks = len(result.detections), len(result.found)
        picture = row(
            Tile(with_names(self.scene, result.detections, TWO), "A detector", f"{boxes} boxes with names"),
            Tile(with_prompt(result.overlays[0], Prompt(), TWO), f"{masks} masks", "one for each box"),
            Tile(legend(self.scene, result, TWO), "Their names"),
        )
        return picture.quantize(256, kmeans=10)  # a quarter of the size

    def studio(self) -> Image.Image:
        """The panel as Studio shows it, beside a picture with drawn points and the masks that they gave at once."""
        from ikomia import core, dataprocess

        self.run(POINT)  # loads the model
        task, graphics, items = self.workflow.task, dataprocess.CGraphicsInput(), []
        task.set_parameters({"input_point": "", "input_point_label": ""})
        for (x, y), category in zip(DRAWN.points, DRAWN_CATEGORIES, strict=True):
            items.append(core.CGraphicsPoint(core.CPointF(x, y)))
            items[-1].set_category(category)
            graphics.set_items(items)
            task.set_input(graphics, 1)
            task.graphics_changed()
        panel = Image.open(IMAGES / "studio_panel.png").convert("RGB")
        picture = with_prompt(task.get_image_with_mask(), DRAWN, panel.height)
        task.set_input(dataprocess.CGraphicsInput(), 1)
        sheet = Image.new("RGB", (picture.width + panel.width, panel.height), WHITE)
        sheet.paste(picture, (0, 0))
        sheet.paste(panel, (picture.width, 0))
        return sheet

    def video(self) -> Image.Image:
        """Two things that are followed through the demo's clip."""
        from following import follow

        with tempfile.TemporaryDirectory() as folder:
            clip = sample_clip(Path(folder))
            followed = follow(self.workflow, clip.path, clip.prompt, Path(folder), width=THREE)
        return row(*(Tile(picture, text) for text, picture in followed.strip[::2]))

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


def coins() -> RGB:
    """Fifteen Greek coins (Brooklyn Museum, no known copyright restrictions), from scikit-image, twice as large."""
    from skimage import data

    photo = Image.fromarray(data.coins()).convert("RGB").crop((0, 0, 303, 231))
    return np.asarray(photo.resize((2 * photo.width, 2 * photo.height), Image.Resampling.BICUBIC))


def boxes_of_bright_things(image: RGB) -> list[Box]:
    """The boxes of what is brighter than its surroundings, as a simple detector finds them, from top to bottom."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    bright = ndimage.binary_opening(grey > ndimage.uniform_filter(grey, 151) + 18, iterations=3)
    labels, _ = ndimage.label(ndimage.binary_closing(bright, iterations=6))
    found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    return [box for box in found if min(box[2] - box[0], box[3] - box[1]) > 30]


def row(*tiles: Tile) -> Image.Image:
    """Tiles side by side."""
    return contact_sheet([tiles], text_size=TEXT_SIZE)


def legend(image: RGB, result: Result, height: int) -> Image.Image:
    """The masks of a result below each other: colour, what it cuts out of the picture, and name."""
    step = height // len(result.found)
    text, pad = font(TEXT_SIZE * 0.9), step // 12
    inner = step - 2 * pad
    left = round(2.2 * inner)
    names = max(text.getlength(found.name) for found in result.found)
    sheet = Image.new("RGB", (left + round(names), height), WHITE)
    pen = ImageDraw.Draw(sheet)
    for k, found in enumerate(result.found):
        top = k * step + pad
        pen.rounded_rectangle([0, top, inner // 2, top + inner - 1], inner // 8, fill=found.colour)
        cut = np.where((result.labels[0] == found.label)[..., None], image, np.uint8(255))
        piece = ImageOps.pad(Image.fromarray(cut).crop(found.box), (inner, inner), color=WHITE)
        sheet.paste(piece, (round(0.85 * inner), top))
        pen.text((left, top + inner / 2), found.name, font=text, fill=INK, anchor="lm")
    return sheet


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
    """Write a picture of the README."""
    path = IMAGES / name
    picture.save(path, optimize=True, **({"quality": 88} if path.suffix == ".jpg" else {}))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


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
            painter.prompt_box_and_points,
            painter.after_a_detector,
            painter.studio,
        ):
            save(draw(), f"{draw.__name__}.png")
        for draw in (painter.automatic, painter.video):  # photographs
            save(draw(), f"{draw.__name__}.jpg")
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
