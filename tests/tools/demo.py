"""What `make demo` runs: three Ikomia workflows on sample pictures, or on one's own, and their results as files.

demo.py --out FOLDER --model sam2_hiera_nano [--image photo.jpg]

1. automatic: everything in the picture;
2. point: one point, for which the model proposes three masks;
3. box_and_points: one box with a point on the object and one beside it.

The checkout is registered in the Ikomia home of HOME, which `make demo` sets to a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pwd
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

ROOT = Path(__file__).resolve().parents[2]
NAME = "infer_segment_anything_2"
SCENE = ROOT / "images" / "sample_scene.png"
SCENE_OBJECTS = ROOT / "images" / "sample_scene_objects.png"

#: The bundled model is less sure of itself than the released ones, which run with sam2's defaults.
AUTOMATIC = {
    "sam2_hiera_nano": {
        "points_per_side": "16",
        "iou_thresh": "0.6",
        "stability_score_thresh": "0.7",
        "box_nms_thresh": "0.5",
        "multimask_output": "False",
        "use_m2m": "False",
    }
}

#: Objects of the sample scene, by their number in sample_scene_objects.png.
POT, PALETTE = 10, 6

RGB = npt.NDArray[np.uint8]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

GREEN, RED, BLUE, WHITE, INK = (22, 163, 74), (220, 38, 38), (37, 99, 235), (255, 255, 255), (31, 41, 55)


class DemoError(Exception):
    """The demo cannot go on; the message is for the user."""


# --- The Ikomia home ---------------------------------------------------------------------------------------------


def prepare_home(home: Path | None = None) -> Path:
    """Point HOME at `home`, register the checkout there and return it; call this before anything imports ikomia.

    Without `home` it is what HOME says, unless that is the user's own: Ikomia writes to it, and a plugin of the same
    name may be installed there.
    """
    if home is None:
        home = Path(os.environ.get("HOME") or "~").expanduser()
        if home.resolve() == Path(pwd.getpwuid(os.getuid()).pw_dir).resolve():
            raise DemoError(
                f"{home} is your own home, and your Ikomia folder is in it. Use `make demo`, which has a home apart, or "
                f"name one: --home FOLDER (--home {home} if your own Ikomia is what you want)."
            )
    home = home.absolute()
    link = home / "Ikomia" / "Plugins" / "Python" / NAME
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != ROOT:
        link.unlink()
    if not link.exists():
        link.symlink_to(ROOT)
    elif link.resolve() != ROOT:
        raise DemoError(f"{link} is a plugin that was installed there: move it away to try this checkout.")
    os.environ["HOME"] = str(home)
    os.environ["IKOMIA_AUTO_COMPLETION"] = "False"  # or importing ikomia writes stubs into its package
    if sys.pycache_prefix is None:
        sys.dont_write_bytecode = True  # nor are caches left in the checkout
    return home


# --- Workflows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """What is pointed at, in pixels of the image; with nothing in it, everything is wanted."""

    points: Sequence[Point] = ()
    labels: Sequence[int] = ()
    boxes: Sequence[Box] = ()

    def parameters(self) -> dict[str, str]:
        """The plugin's parameters for it; all of them, so that none of an earlier prompt stays."""
        return {
            "input_point": json.dumps(self.points) if self.points else "",
            "input_point_label": json.dumps(self.labels) if self.labels else "",
            "input_box": json.dumps(self.boxes) if self.boxes else "",
        }


@dataclass(frozen=True)
class Found:
    """One mask: the output and the label that it has there, what the model says of it, and where it is."""

    output: int
    label: int
    score: float
    box: Box
    area: int


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        parameters: the parameters that were set.
        seconds: time of `run_on`, reading the picture included.
        overlays: per mask output (H, W, 3) uint8, the picture with its masks.
        labels: per mask output (H, W) uint8.
        legends: per mask output a picture of the names and colours.
        outputs_json: per mask output, and last of the instances, Ikomia's JSON.
        found: all masks.
    """

    parameters: dict[str, str]
    seconds: float
    overlays: list[RGB] = field(repr=False)
    labels: list[RGB] = field(repr=False)
    legends: list[RGB] = field(repr=False)
    outputs_json: list[str] = field(repr=False)
    found: list[Found] = field(repr=False)


class SegmentingWorkflow:
    """An Ikomia workflow with the plugin as its only task.

    Args:
        name: the workflow's name.
        model: model_name.
    """

    def __init__(self, name: str, model: str) -> None:
        from ikomia.dataprocess.workflow import Workflow

        logging.getLogger("ikomia").setLevel(logging.WARNING)  # it reports each run
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        self.workflow = Workflow(name)
        self.task = self.workflow.add_task(name=NAME, auto_connect=True)
        if self.task is None:
            raise DemoError(f"Ikomia did not load the plugin from {ROOT}.")
        self.task.set_parameters({"model_name": model, "instance_output": "True"})

    def load(self) -> None:
        """Download the model if it is not there, and load it."""
        self.workflow.init_long_process()

    def segment(self, image: Path, prompt: Prompt, **parameters: str) -> Result:
        """Run on a picture. `parameters` are further ones of the plugin."""
        wanted = {"multimask_output": "False"} | parameters | prompt.parameters()
        self.task.set_parameters(wanted)
        start = time.perf_counter()
        self.workflow.run_on(path=str(image))
        seconds = time.perf_counter() - start

        *masks, instances = [self.task.get_output(i) for i in range(1, self.task.get_output_count())]
        picture = self.task.get_output(0)
        numbers = [(i, k) for i, output in enumerate(masks, 1) for k in range(1, len(output.get_class_names()))]
        objects = instances.get_objects()
        if len(masks) == 1:  # automatic mode can find more than one label image holds
            numbers = [(1, k) for k in range(1, len(objects) + 1)]
        found = []
        for (output, label), item in zip(numbers, objects, strict=True):
            x, y, width, height = map(int, item.box)
            area = int(np.count_nonzero(item.mask))
            found.append(Found(output, label, round(item.confidence, 4), (x, y, x + width, y + height), area))
        return Result(
            parameters=wanted,
            seconds=seconds,
            overlays=[picture.get_image_with_mask(output) for output in masks],
            labels=[output.get_mask() for output in masks],
            legends=[output.get_legend() for output in masks],
            outputs_json=[output.to_json() for output in (*masks, instances)],
            found=found,
        )


def readable(error: Exception) -> str:
    """The plugin's message: Ikomia (0.16.1) wraps it in the type before and the trace behind."""
    wrapped = re.match(r"<class '[^']*'>: (.*?):   File \"", str(error), re.DOTALL)
    return wrapped[1] if wrapped else str(error) or type(error).__name__


# --- Where to point ----------------------------------------------------------------------------------------------


def deepest(mask: npt.NDArray[np.bool_]) -> Point:
    """(x, y) of the pixel of a mask (H, W) that is farthest from the mask's border."""
    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), mask.shape)
    return int(x), int(y)


def bounding_box(mask: npt.NDArray[np.bool_]) -> Box:
    """(x0, y0, x1, y1) around a mask (H, W); x1 and y1 lie one past the last pixel."""
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def beside(mask: npt.NDArray[np.bool_]) -> Point:
    """(x, y) inside the mask's bounding box and well off the mask."""
    x0, y0, x1, y1 = bounding_box(mask)
    x, y = deepest(~mask[y0:y1, x0:x1])
    return x0 + x, y0 + y


def scene_objects() -> dict[int, npt.NDArray[np.bool_]]:
    """The true masks, (H, W) bool, of the sample scene's objects by their number."""
    labels = np.asarray(Image.open(SCENE_OBJECTS))
    return {int(k): labels == k for k in np.unique(labels) if k}


@dataclass(frozen=True)
class Sample:
    """A picture to segment, and where to point in it."""

    name: str
    path: Path
    point: Prompt
    box_and_points: Prompt


def scene_sample() -> Sample:
    """The scene that comes with the plugin."""
    objects = scene_objects()
    pot, palette = objects[POT], objects[PALETTE]
    return Sample(
        "scene",
        SCENE,
        Prompt(points=[deepest(pot)]),
        Prompt(points=[deepest(palette), beside(palette)], labels=[1, 0], boxes=[bounding_box(palette)]),
    )


def photo_sample(folder: Path) -> Sample:
    """A photograph of the astronaut Eileen Collins (NASA, public domain) from scikit-image, written to `folder`."""
    from skimage import data

    path = folder / "photo.png"
    Image.fromarray(data.astronaut()).save(path)
    return Sample(
        "photo",
        path,
        Prompt(points=[(226, 110)]),
        Prompt(points=[(390, 430), (298, 356)], labels=[1, 0], boxes=[(285, 340, 503, 512)]),
    )


def own_sample(path: Path) -> Sample:
    """The user's picture: what is in its centre, and a box of half its size with one of its corners left out."""
    import ikomia  # noqa: F401 - brings the cv2 by which it reads pictures: turned as their EXIF data say

    import cv2  # isort: skip

    image = cv2.imread(str(path)) if path.is_file() else None
    if image is None:
        reason = "is not a picture that OpenCV can read" if path.exists() else "does not exist"
        raise DemoError(f"{path} {reason}.")
    height, width = image.shape[:2]
    centre = (width // 2, height // 2)
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    corner = (box[0] + (box[2] - box[0]) // 20, box[1] + (box[3] - box[1]) // 20)
    name = re.sub(r"\W+", "_", path.stem).strip("_") or "image"
    return Sample(
        name, path.absolute(), Prompt(points=[centre]), Prompt(points=[centre, corner], labels=[1, 0], boxes=[box])
    )


# --- Drawing -----------------------------------------------------------------------------------------------------


def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def draw_dot(picture: Image.Image, centre: Point, radius: float, colour: tuple[int, int, int]) -> None:
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


# --- The demo ----------------------------------------------------------------------------------------------------


def output_suffix(result: Result, output: int) -> str:
    """What the files of a mask output are called besides their run: nothing where it is the only one."""
    return f"_mask_{output}" if len(result.overlays) > 1 else ""


def write_result(out: Path, name: str, prompt: Prompt, result: Result) -> list[str]:
    """Write everything that a run gave; returns the names of the files."""
    files = []

    def save(picture: Image.Image, file: str) -> None:
        picture.save(out / file)
        files.append(file)

    for output, (overlay, labels, legend) in enumerate(
        zip(result.overlays, result.labels, result.legends, strict=True), start=1
    ):
        stem = name + output_suffix(result, output)
        save(with_prompt(overlay, prompt), f"{stem}_overlay.png")
        save(Image.fromarray(labels), f"{stem}_labels.png")
        save(Image.fromarray(np.ascontiguousarray(legend[..., :3])), f"{stem}_legend.png")
        (out / f"{stem}.json").write_text(result.outputs_json[output - 1])
        files.append(f"{stem}.json")
    (out / f"{name}_instances.json").write_text(result.outputs_json[-1])
    return [*files, f"{name}_instances.json"]


def scores_text(scores: Sequence[float]) -> str:
    """Scores in a few characters."""
    if len(scores) > 4:
        return f"{min(scores):.2f} to {max(scores):.2f}"
    return " ".join(f"{score:.2f}" for score in scores) or "-"


def sheet_row(sample: Sample, runs: dict[str, Result], prompts: dict[str, Prompt], width: int = 320) -> list[Tile]:
    """The picture and its results side by side."""
    tiles = [Tile(with_prompt(np.asarray(Image.open(sample.path).convert("RGB")), Prompt(), width), sample.name)]
    for kind, result in runs.items():
        for output, overlay in enumerate(result.overlays, start=1):
            scores = [found.score for found in result.found if found.output == output]
            title = kind.replace("_", " ") + (f", mask {output}" if len(result.overlays) > 1 else "")
            text = f"{len(scores)} masks" if kind == "automatic" else scores_text(scores)
            tiles.append(Tile(with_prompt(overlay, prompts[kind], width), title, text))
    return tiles


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def demo(out: Path, model: str, image: Path | None, photo: bool) -> str:
    """Run the three workflows, write their results to `out` and return a table of them."""
    out.mkdir(parents=True, exist_ok=True)
    if image is not None:
        samples = [own_sample(image)]
    else:
        samples = [scene_sample(), photo_sample(out)] if photo else [scene_sample()]

    start = time.perf_counter()
    workflows = {kind: SegmentingWorkflow(kind, model) for kind in ("automatic", "point", "box_and_points")}
    for workflow in workflows.values():
        workflow.load()
    load_seconds = time.perf_counter() - start

    rows, sheet, summary = [("picture", "workflow", "masks", "predicted IoU", "seconds")], [], []
    for sample in samples:
        prompts = {"automatic": Prompt(), "point": sample.point, "box_and_points": sample.box_and_points}
        settings = {"automatic": AUTOMATIC.get(model, {}), "point": {"multimask_output": "True"}}
        results: dict[str, Result] = {}
        for kind, workflow in workflows.items():
            name, prompt = f"{sample.name}_{kind}", prompts[kind]
            result = results[kind] = workflow.segment(sample.path, prompt, **settings.get(kind, {}))
            scores = [found.score for found in result.found]
            rows.append((sample.name, kind, str(len(scores)), scores_text(scores), f"{result.seconds:.1f}"))
            summary.append(
                {
                    "name": name,
                    "picture": str(sample.path),
                    "seconds": round(result.seconds, 3),
                    "parameters": result.parameters,
                    "masks": [vars(found) for found in result.found],
                    "files": write_result(out, name, prompt, result),
                }
            )
        sheet.append(sheet_row(sample, results, prompts))
    contact_sheet(sheet, text_size=17).save(out / "overview.png")
    report: dict[str, Any] = {"model": model, "load_seconds": round(load_seconds, 3), "runs": summary}
    (out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    return f"{table(rows)}\n\n{model} was loaded in {load_seconds:.1f} s."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that the results are written to")
    parser.add_argument("--model", default="sam2_hiera_nano", help="model_name (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="a picture of your own instead of the samples")
    parser.add_argument("--no-photo", action="store_true", help="of the samples only the scene")
    parser.add_argument("--home", type=Path, help="folder in which Ikomia keeps its files (default: HOME)")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    try:
        prepare_home(args.home)
        print(demo(out, args.model, args.image, not args.no_photo))
    except (DemoError, RuntimeError, ValueError, OSError) as error:
        print(f"The demo stopped: {readable(error)}", file=sys.stderr)
        return 1
    print(f"Everything is in {out}\nLook at {out / 'overview.png'} first.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
