"""What `make demo` runs: Ikomia workflows on sample pictures and a clip, or on one's own, and their results as files.

demo.py --out FOLDER --model sam2_hiera_nano [--image photo.jpg | --track video.mp4] [--point 120,80] [--box 20,30,200,180]

1. automatic: everything in the picture;
2. point: one point, for which the model proposes three masks;
3. box_and_points: one box with a point on the object and one beside it;
4. detector: a task in front finds things and names them, and the plugin makes a mask of that name of each;
5. follow: what is marked in the first frame of a video is followed through the others.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from drawing import RGB, Colour, Named, Tile, contact_sheet, with_names, with_prompt
from PIL import Image
from samples import (
    AUTOMATIC,
    FOLLOWED,
    ROOT,
    Box,
    DemoError,
    Point,
    Prompt,
    Sample,
    checked,
    own_sample,
    photo_sample,
    scene_sample,
)

NAME = "infer_segment_anything_2"

# --- The Ikomia home ---------------------------------------------------------------------------------------------


def home_of_user() -> Path | None:
    """The user's own home, whatever HOME says; None where this user has none, as in some containers."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def prepare_home(home: Path | None = None) -> Path:
    """Point HOME at `home`, register the checkout there and return it; call this before anything imports ikomia.

    Without `home` it is what HOME says, unless that is the user's own: Ikomia writes to it, and a plugin of the same
    name may be installed there.
    """
    if home is None:
        home = Path(os.environ.get("HOME") or "~").expanduser()
        own = home_of_user()
        if own is not None and home.resolve() == own.resolve():
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
class Found:
    """One mask: the output and the label that it has there, its name, its predicted IoU, and where it is."""

    output: int
    label: int
    name: str
    score: float
    colour: Colour
    box: Box
    area: int


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        parameters: the parameters that were set.
        seconds: time of `run_on`, reading the picture included.
        picture: (H, W, 3) uint8, as the model saw it.
        overlays: per mask output (H, W, 3) uint8, the picture with its masks.
        labels: per mask output (H, W) uint8.
        legends: per mask output a picture of the names and colours.
        outputs_json: per mask output, and last of the instances, Ikomia's JSON.
        found: all masks.
        detections: what the task in front found.
    """

    parameters: dict[str, str]
    seconds: float
    picture: RGB = field(repr=False)
    overlays: list[RGB] = field(repr=False)
    labels: list[RGB] = field(repr=False)
    legends: list[RGB] = field(repr=False)
    outputs_json: list[str] = field(repr=False)
    found: list[Found] = field(repr=False)
    detections: list[Named] = field(repr=False)


class SegmentingWorkflow:
    """An Ikomia workflow with the plugin as its only task, or behind a detector.

    Args:
        name: the workflow's name.
        model: model_name.
        detector: an Ikomia task that finds objects.
    """

    def __init__(self, name: str, model: str, detector: Any = None) -> None:
        from ikomia.dataprocess.workflow import Workflow

        logging.getLogger("ikomia").setLevel(logging.WARNING)  # it reports each run
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        self.workflow = Workflow(name)
        self.detector = detector
        if detector is not None:
            self.workflow.add_task(task=detector, auto_connect=True)
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

        from infer_segment_anything_2.segmentation.images import to_rgb8

        *label_images, instances = [self.task.get_output(i) for i in range(1, self.task.get_output_count())]
        picture = self.task.get_output(0)
        return Result(
            parameters=wanted,
            seconds=seconds,
            picture=to_rgb8(picture.get_image()),
            overlays=[picture.get_image_with_mask(output) for output in label_images],
            labels=[output.get_mask() for output in label_images],
            legends=[output.get_legend() for output in label_images],
            outputs_json=[output.to_json() for output in (*label_images, instances)],
            found=self._found(instances),
            detections=self._detections(),
        )

    def _found(self, instances: Any) -> list[Found]:
        masks = enumerate(self.task.get_masks(), start=1)
        scored = [
            (output, k, float(score)) for output, of_one in masks for k, score in enumerate(of_one.scores, start=1)
        ]
        found = []
        for (output, label, score), item in zip(scored, instances.get_objects(), strict=True):
            x, y, width, height = map(int, item.box)
            colour, box = tuple(item.color[:3]), (x, y, x + width, y + height)
            area = int(np.count_nonzero(item.mask))
            found.append(Found(output, label, item.label, round(score, 4), colour, box, area))
        return found

    def _detections(self) -> list[Named]:
        found = [] if self.detector is None else self.detector.get_output(1).get_objects()
        boxes = [(x, y, x + width, y + height) for x, y, width, height in (detection.box for detection in found)]
        return [Named(detection.label, box) for detection, box in zip(found, boxes, strict=True)]


def readable(error: Exception) -> str:
    """The plugin's message: Ikomia (0.16.1) wraps it in the type before and the trace behind."""
    wrapped = re.match(r"<class '[^']*'>: (.*?):   File \"", str(error), re.DOTALL)
    return wrapped[1] if wrapped else str(error) or type(error).__name__


# --- The demo ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one workflow made of one picture."""

    kind: str
    sample: Sample
    prompt: Prompt
    result: Result

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.sample.name}_{self.kind}"

    def picture(self, output: int, width: int | None = None) -> Image.Image:
        """The masks of an output with what was pointed at: the prompt, or a detector's boxes with their names."""
        overlay = self.result.overlays[output - 1]
        if self.kind == "detector":
            return with_names(overlay, self.result.detections, width)
        return with_prompt(overlay, self.prompt, width)


def write_run(out: Path, run: Run, task: Any) -> list[str]:
    """Write everything that a run of the plugin's task gave; returns the names of the files."""
    files, result = [], run.result

    def new(file: str) -> Path:
        files.append(file)
        return out / file

    for number, (labels, legend) in enumerate(zip(result.labels, result.legends, strict=True)):
        stem = run.name + (f"_mask_{number + 1}" if len(result.overlays) > 1 else "")
        run.picture(number + 1).save(new(f"{stem}_overlay.png"))
        Image.fromarray(labels).save(new(f"{stem}_labels.png"))
        Image.fromarray(np.ascontiguousarray(legend[..., :3])).save(new(f"{stem}_legend.png"))
        new(f"{stem}.json").write_text(result.outputs_json[number])
        task.save_coco(str(new(f"{stem}_coco.json")), run.sample.path.name, number)
    new(f"{run.name}_instances.json").write_text(result.outputs_json[-1])
    return files


def scores_text(scores: Sequence[float]) -> str:
    """Scores in a few characters."""
    if len(scores) > 4:
        return f"{min(scores):.2f} to {max(scores):.2f}"
    return " ".join(f"{score:.2f}" for score in scores) or "nothing found"


def sheet_row(sample: Sample, runs: Sequence[Run], width: int = 320) -> list[Tile]:
    """The picture and its results side by side."""
    tiles = [Tile(with_prompt(runs[0].result.picture, Prompt(), width), sample.name)]
    for run in runs:
        outputs = len(run.result.overlays)
        for output in range(1, outputs + 1):
            scores = [found.score for found in run.result.found if found.output == output]
            title = run.kind.replace("_", " ") + (f", mask {output}" if outputs > 1 else "")
            text = scores_text(scores)
            if scores and run.kind in ("automatic", "detector"):
                text = f"{len(scores)} {'named ' * (run.kind == 'detector')}mask{'s' * (len(scores) > 1)}"
            tiles.append(Tile(run.picture(output, width), title, text))
    return tiles


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def make_workflows(model: str) -> dict[str, SegmentingWorkflow]:
    """The workflows of the demo by their kind, loaded."""
    from faces_and_blobs import FacesAndBlobs

    workflows = {kind: SegmentingWorkflow(kind, model) for kind in ("automatic", "point", "box_and_points")}
    workflows["detector"] = SegmentingWorkflow("detector", model, FacesAndBlobs())
    for workflow in workflows.values():
        workflow.load()
    return workflows


def files_of_before(out: Path) -> set[str]:
    """The names of what an earlier demo wrote to `out`; none where its summary is not there."""
    try:
        runs = json.loads((out / "summary.json").read_text())["runs"]
        files = {Path(file).name for run in runs for file in run["files"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    of_photo = {"photo.png"} if any(file.startswith("photo_") for file in files) else set()  # not listed at first
    return files | of_photo | {"overview.png", "summary.json"}


def demo(args: argparse.Namespace, out: Path) -> str:
    """Run the workflows on pictures and on a video, write their results to `out` and return a table of them."""
    model, own = args.model, own_pictures(args, out)
    start = time.perf_counter()
    workflows = make_workflows(model)
    load_seconds = time.perf_counter() - start
    samples, clip = samples_of(args, out, *own)  # now that nothing is missing

    rows, sheet, summary = [("picture", "workflow", "masks", "predicted IoU", "seconds")], [], []
    settings = {"automatic": AUTOMATIC.get(model, {}), "point": {"multimask_output": "True"}}
    for sample in samples:
        prompts = {"point": sample.point, "box_and_points": sample.box_and_points}
        runs = []
        for kind, workflow in workflows.items():
            prompt = prompts.get(kind, Prompt())
            result = workflow.segment(sample.path, prompt, **settings.get(kind, {}))
            run = Run(kind, sample, prompt, result)
            scores = [found.score for found in result.found]
            rows.append((sample.name, kind, str(len(scores)), scores_text(scores), f"{result.seconds:.1f}"))
            summary.append(
                {
                    "name": run.name,
                    "picture": str(sample.path),
                    "seconds": round(result.seconds, 3),
                    "parameters": result.parameters,
                    "masks": [vars(found) for found in result.found],
                    "files": write_run(out, run, workflow.task) + sample.files,
                }
            )
            runs.append(run)
        sheet.append(sheet_row(sample, runs))
    if clip is not None:
        from following import follow

        followed = follow(workflows["point"], clip.path, clip.prompt, out, width=320)
        found = f"{followed.objects} in {followed.frames} frames"
        rows.append((clip.path.stem, "follow", found, "", f"{followed.seconds:.1f}"))
        summary.append(
            {"name": "clip_follow", "seconds": round(followed.seconds, 3), "files": followed.files + clip.files}
        )
        sheet.append([Tile(picture, text) for text, picture in followed.strip])
    contact_sheet(sheet, text_size=17).save(out / "overview.png")
    report: dict[str, Any] = {"model": model, "load_seconds": round(load_seconds, 3), "runs": summary}
    (out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    return f"{table(rows)}\n\n{model} was loaded in {load_seconds:.1f} s."


@dataclass(frozen=True)
class Clip:
    """A video, what to follow in it, and the files that were written for it."""

    path: Path
    prompt: Prompt
    files: list[str] = field(default_factory=list)


def sample_clip(out: Path) -> Clip:
    """The clip that this project makes, written to `out`."""
    import clip
    from following import VideoFile

    video = VideoFile(out / "clip.mp4", clip.FRAMES_PER_SECOND)
    for frame, _ in clip.frames():
        video.write(frame)
    video.close()
    return Clip(video.path, clip.prompt(), [video.path.name])


def own_clip(path: Path, point: Point | None, box: Box | None) -> Clip:
    """The user's video; without a point and a box the middle of its first frame is followed."""
    from following import frames_of

    frame = next(frames_of(path), None)
    if frame is None:
        raise DemoError(f"{path} has no frame.")
    middle = None if box else (frame.shape[1] // 2, frame.shape[0] // 2)
    points = [point or middle] if point or middle else []
    return Clip(path, checked(Prompt(points=points, labels=[1] * len(points), boxes=[box] if box else []), frame))


def path_of_user(text: str) -> Path:
    """A path in which ~ is the user's own home, not that of the demo."""
    own = home_of_user()
    is_in_home = text == "~" or text.startswith("~/")
    return Path(f"{own}{text[1:]}") if is_in_home and own is not None else Path(text).expanduser()


def pixels(count: int) -> Callable[[str], tuple[float, ...]]:
    """A type for argparse: so many numbers with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not accepted; accepted is {','.join('xyxy'[:count])}, in pixels"
            )
        return numbers

    return parse


def what_next(model: str, samples: bool) -> str:
    """What somebody who has seen the results may want to do."""
    lines = []
    if model == "sam2_hiera_nano":
        lines.append(
            "These masks are those of a trial model of 10 MB. A real one: make demo MODEL=sam2.1_hiera_small (184 MB)."
        )
    if samples:
        lines.append("A picture of yours: make demo IMAGE=photo.jpg POINT=120,80 BOX=20,30,200,180")
        lines.append("A video of yours: make demo TRACK=video.mp4 BOX=20,30,200,180")
    return "\n".join(lines)


def written_by(args: argparse.Namespace) -> list[str]:
    """The names that a demo of these arguments writes under in any case."""
    if args.image or args.track:
        return ["overview.png", "summary.json", *([FOLLOWED] if args.track else [])]
    return ["overview.png", "summary.json", *([] if args.no_photo else ["photo.png", "clip.mp4", FOLLOWED])]


def own_pictures(args: argparse.Namespace, out: Path) -> tuple[Sample | None, Clip | None]:
    """The user's picture, or video."""
    own = own_sample(args.image, args.point, args.box) if args.image else None
    video = own_clip(args.track, args.point, args.box) if args.track else None
    given, before = [path for path in (args.image, args.track) if path], files_of_before(out)
    for path in (out / name for name in written_by(args)):
        if path.resolve() in [one.resolve() for one in given]:
            raise DemoError(f"{path} is what the demo itself writes: give it another name.")
        if path.exists() and path.name not in before:
            raise DemoError(f"{path} is there, and no demo wrote it: give the results a folder of their own (OUT=).")
    return own, video


def samples_of(
    args: argparse.Namespace, out: Path, own: Sample | None, video: Clip | None
) -> tuple[list[Sample], Clip | None]:
    """The pictures and the video to run on: the user's picture, or video, or the samples, which are written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    kept = [path.resolve() for path in (args.image, args.track) if path]
    for path in (out / file for file in files_of_before(out)):
        if path.resolve() not in kept:
            path.unlink(missing_ok=True)
    # At once, so that a demo that was interrupted is known as one.
    (out / "summary.json").write_text(json.dumps({"runs": [{"files": written_by(args)}]}))
    if own is not None or video is not None:
        return [own] if own is not None else [], video
    if args.no_photo:
        return [scene_sample()], None
    return [scene_sample(), photo_sample(out)], sample_clip(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=path_of_user,
        required=True,
        help="folder that the results are written to, in place of those before",
    )
    parser.add_argument("--model", default="sam2_hiera_nano", help="model_name (default: %(default)s)")
    parser.add_argument("--image", type=path_of_user, help="a picture of your own instead of the samples")
    parser.add_argument("--point", type=pixels(2), metavar="X,Y", help="a point on something in that picture")
    parser.add_argument("--box", type=pixels(4), metavar="X0,Y0,X1,Y1", help="a box around something in it")
    parser.add_argument(
        "--track", type=path_of_user, help="a video of your own instead: a point or a box in its first frame"
    )
    parser.add_argument("--no-photo", action="store_true", help="of the samples only the scene")
    parser.add_argument("--home", type=Path, help="folder in which Ikomia keeps its files (default: HOME)")
    args = parser.parse_args(arguments)
    if args.image is None and args.track is None and (args.point or args.box):
        parser.error(
            "--point and --box lie in a picture or video of your own: --image or --track (IMAGE=, TRACK= of make demo)"
        )
    if args.image and args.track:
        parser.error("--image and --track are one or the other (IMAGE=, TRACK= of make demo)")
    out = args.out.absolute()
    try:
        prepare_home(args.home)
        print(demo(args, out))
    except (DemoError, RuntimeError, ValueError, OSError) as error:
        print(f"The demo stopped: {readable(error)}", file=sys.stderr)
        return 1
    print(f"Everything is in {out}\nLook at {out / 'overview.png'} first.")
    print(what_next(args.model, args.image is None and args.track is None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
