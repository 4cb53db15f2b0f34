r"""Segment a folder of images with SAM 2 on all cores, on GPUs or on many machines, with Ray Data and without Ikomia.

On this machine, everything in each image, and then what is in one box:

    pip install -r requirements.txt "ray[data]>=2.60"
    python examples/segment_folder_on_ray.py photos results --model_name sam2_hiera_tiny
    python examples/segment_folder_on_ray.py photos boxes --model_name sam2_hiera_tiny --input_box "[20, 30, 200, 180]"

What a detector found, each image its own boxes, from a COCO file; the masks keep its categories:

    python examples/segment_folder_on_ray.py photos masks --model_name sam2_hiera_tiny --boxes detections.json

As labels to train YOLO with, also those of an earlier run:

    python examples/segment_folder_on_ray.py photos masks --model_name sam2_hiera_tiny --boxes detections.json --format yolo

On a cluster whose machines have the same packages and see both folders under the same paths, from the plugin's folder, which is
sent along:

    ray job submit --address http://HEAD:8265 --working-dir . -- \
        python examples/segment_folder_on_ray.py /shared/photos /shared/results --num_gpus 1 --workers 8

Only the names of images and their boxes travel through Ray. A worker loads the model once, reads an image itself and writes
its masks, whole or not at all, to `results/images/<name>.json` in COCO's format. At the end `results/masks.json` has the masks
of all images, or `results/labels` has their YOLO labels, and `results/failures.json` says why some have none; the exit status
is 1 then. Run it again after an interruption, when there are more images, or for another format: those that have their masks
are left alone, unless their boxes are others now.

With --boxes mask k of an image is that of its box k, in the order of the COCO file. A box outside the image or without area has
an empty mask, an image without boxes no mask. Boxes are in pixels of the image turned as its EXIF data say; an image that is of
another size than the COCO file says counts as a failure.

Ray replaces a worker that dies and gives its images out again. An image on which three workers died counts as a failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tqdm import tqdm

try:
    import ray
    import ray.data
except ImportError as error:
    sys.exit(f'Ray cannot be imported ({error}). Install it: pip install "ray[data]>=2.60"')

if TYPE_CHECKING:
    from infer_segment_anything_2.segmentation.masks import RLE, Masks
    from infer_segment_anything_2.segmentation.objects import Object
    from infer_segment_anything_2.segmentation.parameters import Parameters
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

PLUGIN = Path(__file__).resolve().parents[1]
PACKAGE = "infer_segment_anything_2"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

#: The plugin's parameters that are no options here: --num_gpus decides where workers compute, COCO has every mask, and a folder
#: has neither strokes nor frames.
NO_OPTIONS = ("cuda", "instance_output", "live", "track")
#: Names of images in one task of Ray. What a dead worker finished of them is not done again.
IMAGES_PER_TASK = 8
#: Workers that may die on one image, for want of memory say, before it counts as a failure.
MAX_DEATHS = 3

#: What is made of all masks: masks.json with run lengths or with polygons, or a folder of labels.
FORMATS = ("coco", "coco-polygons", "yolo")
#: What --boxes takes.
BOXES_FORM = "a COCO file of detections: lists of images, annotations and categories"


def load_plugin(folder: str | Path) -> None:
    """Make `infer_segment_anything_2` importable in this process, whatever its folder is called.

    What is imported from it is imported inside functions: Ray sends these to workers, which have to find the plugin first.

    Args:
        folder: the plugin's on the machine that the run was started on. Where there is none, the working directory counts,
            which Ray fills with what `ray job submit --working-dir` sent.

    Raises:
        ImportError: neither of them is the plugin's folder.
    """
    if PACKAGE in sys.modules:
        return
    folders = [Path(folder), Path.cwd()]
    root = next((path for path in folders if (path / "segmentation" / "segmenter.py").is_file()), None)
    if root is None:
        raise ImportError(f"The plugin is neither in {folders[0]} nor in {folders[1]}: send it with --working-dir.")
    spec = importlib.util.spec_from_file_location(PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec is not None and spec.loader is not None  # noqa: PT018 - for type checkers: a .py file has both
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker has to know; its paths hold on every machine.

    Attributes:
        images: the folder of images.
        results: the folder of results.
        parameters: the plugin's parameters, as text.
        device: "cpu" or "cuda".
        threads: torch's threads in one worker.
        plugin: the plugin's folder; see :func:`load_plugin`.
        format: one of :data:`FORMATS`.
    """

    images: Path
    results: Path
    parameters: dict[str, str]
    device: str = "cpu"
    threads: int = 1
    plugin: Path = PLUGIN
    format: str = "coco"

    def masks_file(self, name: str) -> Path:
        """Where the masks of the image `name` are kept."""
        return self.results / "images" / f"{name}.json"

    def attempts_file(self, name: str) -> Path:
        """A line for each worker that began with the image `name`; gone once one has finished it."""
        return self.results / "attempts" / f"{name}.txt"


class Detection(TypedDict):
    """An annotation of a COCO file: `bbox` is x, y, width and height in pixels, `name` that of its category, `image_size` width
    and height of its image, where the file says them."""

    bbox: list[float]
    image_size: list[int] | None
    category_id: int
    name: str
    id: int | None
    confidence: float | None


@dataclasses.dataclass(frozen=True)
class Detections:
    """What a COCO file says.

    Attributes:
        of_images: the detections in each image that it names, in its order.
        categories: its categories as they are.
    """

    of_images: dict[str, list[Detection]]
    categories: list[dict[str, Any]]


class Outcome(NamedTuple):
    """What a run has done.

    Attributes:
        before: how many images have masks from an earlier run.
        now: how many have them from this one.
        errors: why each of the others has none.
        absent: how many images that the COCO file names are not in the folder.
    """

    before: int
    now: int
    errors: dict[str, str]
    absent: int


def read_detections(path: Path) -> Detections:
    """The detections in a COCO file, of data sets or with scores as detectors write them.

    Raises:
        ValueError: no such file, or an annotation without a box or of an image or a category that is not there.
    """
    from infer_segment_anything_2.segmentation.messages import in_short, not_accepted

    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: PurePosixPath(image["file_name"]).as_posix() for image in tree["images"]}
        sizes = {image["id"]: [image.get("width"), image.get("height")] for image in tree["images"]}
        names = {category["id"]: category["name"] for category in tree["categories"]}
        annotations = [dict(annotation) for annotation in tree["annotations"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"boxes: {path} cannot be read ({in_short(error)}); accepted is {BOXES_FORM}.") from error
    of_images: dict[str, list[Detection]] = {name: [] for name in images.values()}
    for k, annotation in enumerate(annotations, start=1):
        for key, known in (("image_id", images), ("category_id", names)):
            if annotation.get(key) not in known:
                raise ValueError(
                    not_accepted(f"boxes: {key} of annotation {k}", annotation.get(key), "an id that the file lists")
                )
        bbox = annotation.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, (int, float)) for v in bbox):
            raise ValueError(not_accepted(f"boxes: bbox of annotation {k}", bbox, "[x, y, width, height] in pixels"))
        size = sizes[annotation["image_id"]]
        detection = Detection(
            bbox=bbox,
            image_size=size if all(size) else None,
            category_id=annotation["category_id"],
            name=names[annotation["category_id"]],
            id=annotation.get("id"),
            confidence=annotation.get("score"),
        )
        of_images[images[annotation["image_id"]]].append(detection)
    return Detections(of_images, tree["categories"])


class ImageSegmenter:
    """A worker of Ray Data: one loaded model, called with one image at a time."""

    def __init__(self, job: Job) -> None:
        load_plugin(job.plugin)
        import torch

        from infer_segment_anything_2.segmentation.parameters import Parameters, update
        from infer_segment_anything_2.segmentation.segmenter import open_segmenter

        torch.set_num_threads(job.threads)  # by default each of a machine's workers takes all of its cores
        self.job = job
        self.parameters = update(Parameters(), job.parameters)
        self.segmenter = open_segmenter(
            self.parameters.model_name,
            model_weight_file=self.parameters.model_weight_file,
            config_file=self.parameters.config_file,
            device=job.device,
            apply_postprocessing=self.parameters.apply_postprocessing,
        )

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Segment the image `row["name"]` and write its masks, unless they are there.

        Args:
            row: also `detections`, as JSON; "null" where the parameters say what to segment.

        Returns:
            The `name` again and an `error`: why the image has no masks, or an empty text.
        """
        name, error = row["name"], ""
        masks_file, attempts_file = self.job.masks_file(name), self.job.attempts_file(name)
        if masks_file.is_file():  # the worker that was given this task before died after it
            return {"name": name, "error": error}
        for file in (masks_file, attempts_file):
            file.parent.mkdir(parents=True, exist_ok=True)
        with attempts_file.open("a+") as file:
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.seek(0)
            deaths = len(file.readlines()) - 1
        if deaths >= MAX_DEATHS:
            error = f"{deaths} workers died while they segmented it, for want of memory perhaps"
        else:
            try:
                self.write_masks(name, json.loads(row["detections"]))
            except Exception as fault:  # whatever is wrong with one image, the others go on
                error = f"{type(fault).__name__}: {fault}"
        attempts_file.unlink(missing_ok=True)
        return {"name": name, "error": error}

    def write_masks(self, name: str, detections: list[Detection] | None) -> None:
        """Write the file of the image `name`; with `detections`, mask k is of the category of detection k."""
        from infer_segment_anything_2.segmentation.export import to_coco

        masks = segment(self.segmenter, self.job.images / name, self.parameters, detections)
        tree = to_coco({name: masks})
        if detections is not None:
            for annotation, detection in zip(tree["annotations"], detections, strict=True):
                annotation["category_id"] = detection["category_id"]
            names = {detection["category_id"]: detection["name"] for detection in detections}
            tree["categories"] = [{"id": number, "name": names[number]} for number in sorted(names)]
        replace(self.job.masks_file(name), [json.dumps(tree, allow_nan=False)])


def read_image(path: Path, intensity_range: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
    """The image (H, W, 3) RGB in a file, turned as its EXIF data say; of a TIFF its first page.

    OpenCV, which reads colours of 16 bits, refuses a TIFF that is to be turned.

    Args:
        path: of the file.
        intensity_range: the values that are shown as black and white; None: found in the image.

    Raises:
        Exception: of whatever kind Pillow raises for a file that is no image, or only a part of one.
        ImportError: colours of 16 bits where OpenCV is not installed.
    """
    from infer_segment_anything_2.segmentation.images import to_rgb8
    from infer_segment_anything_2.segmentation.tiffs import refuse_bands_apart

    refuse_bands_apart(path)
    with path.open("rb") as stream, Image.open(stream) as file:  # given a path, Pillow 13 leaves some TIFFs unturned
        is_deep = file.mode in ("RGB", "RGBA") and ";16" in str(file.tile)
        image = ImageOps.exif_transpose(file)
        if is_deep:
            return to_rgb8(deep_colours(path), intensity_range)
        if image.mode not in ("1", "L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")  # palettes, CMYK and the like
        return to_rgb8(np.asarray(image), intensity_range)


def deep_colours(path: Path) -> npt.NDArray[np.uint16]:
    """The image (H, W, 3) RGB in a file with 16 bits for each colour, of which Pillow would drop the lower 8."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "colours of 16 bits are not read without OpenCV (pip install opencv-python-headless)"
        ) from error
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if bgr is None:
        raise ValueError(f"{path.name}: OpenCV cannot read these colours of 16 bits")
    return bgr[..., ::-1]


def segment(
    segmenter: Segmenter, path: Path, parameters: Parameters, detections: Sequence[Detection] | None = None
) -> Masks:
    """The masks of one image: of each of its detections, or else of what the parameters point at, or of everything.

    With multimask_output each object gets the one of its three candidates that the model rates best.

    Raises:
        Exception: a file that cannot be read.
        ValueError: a prompt outside of this image.
    """
    from infer_segment_anything_2.segmentation.masks import best_of
    from infer_segment_anything_2.segmentation.request import make_request, objects_of

    image = read_image(path, parameters.intensity_range.value)
    image_hw = image.shape[:2]
    if detections is None:
        objects = objects_of(parameters, image_hw)
    else:
        objects = [as_object(detection, image_hw) for detection in detections]
    candidates = segmenter.segment(image, make_request(parameters, objects, image_hw))
    return best_of(candidates) if len(candidates) > 1 else candidates[0]


def as_object(detection: Detection, image_hw: tuple[int, int]) -> Object:
    """What a detection points at; nothing, for an empty mask, if its box is outside the image or without area.

    Raises:
        ValueError: the COCO file says that the image is of another size: the box would be somewhere else.
    """
    from infer_segment_anything_2.segmentation.objects import Object, box_inside

    size, in_file = [image_hw[1], image_hw[0]], detection["image_size"]
    if in_file is not None and in_file != size:
        raise ValueError(
            f"boxes: the image is {in_file[0]} x {in_file[1]} in the COCO file; accepted is {size[0]} x {size[1]}, width and "
            "height of the image in the folder, turned as its EXIF data say."
        )
    x, y, width, height = detection["bbox"]
    return Object(
        box=box_inside([x, y, x + width, y + height], image_hw),
        name=detection["name"],
        id=detection["id"],
        confidence=detection["confidence"],
    )


def segment_folder(job: Job, workers: int = 0, num_gpus: float = 0, detections: Detections | None = None) -> Outcome:
    """Segment the images that have no masks yet, and write masks.json or labels, and failures.json. Ray is started.

    Args:
        job: what to do.
        workers: how many; 0: as many as the cluster has room for.
        num_gpus: of each worker; may be a fraction.
        detections: what to segment, in place of what the parameters say. Images that they do not name have none.

    Raises:
        ValueError: no images, two whose labels would be one file, none that `detections` name, results of other parameters, or
            more threads or GPUs for one worker than a machine has.
    """
    names = sorted(
        path.relative_to(job.images).as_posix()
        for path in job.images.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not names:
        raise ValueError(
            f"images: there are none in {job.images}; accepted are files that end with {', '.join(SUFFIXES)}."
        )
    if job.format == "yolo":
        from infer_segment_anything_2.segmentation.export import label_file

        image_of: dict[PurePath, str] = {}
        for name in names:
            label_file(name, job.results / "labels", image_of)
    absent = sorted(set(detections.of_images).difference(names)) if detections else []
    if detections and len(absent) == len(detections.of_images):
        raise ValueError(
            f"boxes: no image in {job.images} has a file_name of the COCO file, such as {absent[:1]}; accepted are paths "
            "relative to the folder of images."
        )
    keep_to_parameters(job, detections)
    if detections:
        delete_changed(job, detections.of_images)
    missing = [name for name in names if not job.masks_file(name).is_file()]
    shutil.rmtree(job.results / "attempts", ignore_errors=True)  # of a run that was interrupted: no worker died
    errors: dict[str, str] = {}
    if missing:
        rows = [
            {"name": name, "detections": json.dumps(detections.of_images.get(name, []) if detections else None)}
            for name in missing
        ]
        for row in tqdm(run(job, rows, workers, num_gpus), total=len(missing), desc="Segmenting", unit="image"):
            if row["error"]:
                errors[row["name"]] = row["error"]
    shutil.rmtree(job.results / "attempts", ignore_errors=True)
    replace(job.results / "failures.json", [json.dumps(errors, indent=1, sort_keys=True)])
    for name in errors:  # of an earlier run, with other boxes
        (job.results / "labels" / name).with_suffix(".txt").unlink(missing_ok=True)
    merge(job, [name for name in names if name not in errors], detections)
    return Outcome(len(names) - len(missing), len(missing) - len(errors), errors, len(absent))


def run(job: Job, rows: Sequence[dict[str, str]], workers: int, num_gpus: float) -> Iterable[dict[str, str]]:
    """What :class:`ImageSegmenter` returns for each of `rows`, as it comes."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind, each = ("GPU", num_gpus) if num_gpus else ("CPU", job.threads)
    room = sum(int(machine.get(kind, 0) / each) for machine in machines)
    if not room:
        option = f"num_gpus is {num_gpus:g}" if num_gpus else f"threads is {job.threads}"
        most = max(machine.get(kind, 0) for machine in machines)
        raise ValueError(f"{option}; accepted is at most {most:g}, the {kind}s that one machine of the cluster has.")
    tasks = -(-len(rows) // IMAGES_PER_TASK)
    ray.data.DataContext.get_current().enable_progress_bars = False  # tqdm's counts images
    dataset = ray.data.from_items(list(rows), override_num_blocks=tasks)
    # Workers that are killed, also while they load the model, are replaced as often as it takes: of the actors of a pool Ray
    # Data sets max_restarts and max_task_retries to -1 (2.60, where setting them oneself is deprecated). What a constructor
    # raises ends the run.
    return dataset.map(
        ImageSegmenter,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=min(workers or room, tasks)),
        **({"num_gpus": num_gpus} if num_gpus else {"num_cpus": job.threads}),
    ).iter_rows()


def keep_to_parameters(job: Job, detections: Detections | None) -> None:
    """Note the parameters with the results; ValueError where these were made with others, or without detections."""
    path = job.results / "parameters.json"
    parameters = job.parameters | ({"boxes": "those of a COCO file"} if detections else {})
    for name in ("model_weight_file", "config_file"):
        if os.path.isfile(parameters[name]):  # one that was trained on meanwhile has its name still
            parameters[f"SHA-256 of {name}"] = hashlib.sha256(Path(parameters[name]).read_bytes()).hexdigest()
    if not path.is_file() or not (job.results / "images").is_dir():
        replace(path, [json.dumps(parameters, indent=1)])
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(name for name in parameters | before if parameters.get(name) != before.get(name))
    if changed:
        raise ValueError(
            f"results: {job.results} has masks made with {', '.join(f'{name} = {before.get(name)}' for name in changed)}; "
            "accepted are the same parameters, or another folder."
        )


def delete_changed(job: Job, now: dict[str, list[Detection]]) -> None:
    """Delete the masks of images whose detections are no longer those that they were made with, and note those of `now`."""
    path = job.results / "boxes.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in before | now:
        if before.get(name, []) != now.get(name, []):
            job.masks_file(name).unlink(missing_ok=True)
    replace(path, [json.dumps(now)])  # last: should this run be interrupted before, the next one goes on


def merge(job: Job, names: Iterable[str], detections: Detections | None) -> None:
    """Write masks.json, or labels, from the files of the images `names`, one at a time in memory, as one `save_coco` or
    `save_yolo` would have, with the categories of the COCO file that `detections` are from."""
    from infer_segment_anything_2.segmentation.export import coco_polygons, save_yolo

    trees = ((name, json.loads(job.masks_file(name).read_text(encoding="utf-8"))) for name in names)

    def parts() -> Iterable[str]:
        images: list[dict[str, Any]] = []
        categories: dict[int, dict[str, Any]] = {}
        count = 0
        yield '{"annotations": ['
        for _, tree in trees:
            images.append(tree["images"][0] | {"id": len(images) + 1})
            categories |= {category["id"]: category for category in tree["categories"]}
            for annotation, rle in zip(tree["annotations"], rles_of(tree), strict=True):
                if job.format == "coco-polygons" and annotation["area"]:
                    annotation["segmentation"] = coco_polygons(rle)
                count += 1
                yield ", " * (count > 1) + json.dumps(annotation | {"id": count, "image_id": len(images)})
        listed = detections.categories if detections else list(categories.values())
        yield f'], "images": {json.dumps(images)}, "categories": {json.dumps(listed)}}}'

    if job.format == "yolo":
        classes = [category["name"] for category in detections.categories] if detections else []
        save_yolo(job.results / "labels", ((name, masks_of(tree)) for name, tree in trees), names=classes)
    else:
        replace(job.results / "masks.json", parts())


def rles_of(tree: dict[str, Any]) -> list[RLE]:
    """The masks of one image, from what :meth:`ImageSegmenter.write_masks` has written."""
    found = [annotation["segmentation"] for annotation in tree["annotations"]]
    return [{"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in found]


def masks_of(tree: dict[str, Any]) -> Masks:
    """The same, named by their categories and with their scores."""
    from infer_segment_anything_2.segmentation.masks import Masks

    name_of = {category["id"]: category["name"] for category in tree["categories"]}
    image, annotations = tree["images"][0], tree["annotations"]
    return Masks(
        (image["height"], image["width"]),
        rles_of(tree),
        np.array([annotation["score"] for annotation in annotations], np.float32),
        names=[name_of[annotation["category_id"]] for annotation in annotations],
    )


def replace(path: Path, parts: Iterable[str]) -> None:
    """Write a text file in full or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def at_least(least: int, kind: Callable[[str], float]) -> Callable[[str], float]:
    """A converter of an option's text for argparse."""

    def convert(text: str) -> float:
        with suppress(ValueError):
            if kind(text) >= least:
                return kind(text)
        number = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; accepted is {number}, {least} or more.")

    return convert


def options() -> argparse.ArgumentParser:
    """The command line: the plugin's parameters under their own names, and what concerns Ray."""
    from infer_segment_anything_2.segmentation.parameters import DECLARATION, Parameters, accepted, as_text, type_name

    parser = argparse.ArgumentParser(
        usage="%(prog)s images results [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, help="folder of images; those in folders below count too")
    parser.add_argument("results", type=Path, help="folder of results")
    parser.add_argument("--workers", type=at_least(1, int), default=0, help="default: as many as there is room for")
    parser.add_argument(
        "--threads", type=at_least(1, int), default=1, help="CPUs of each worker (default: %(default)s)"
    )
    parser.add_argument(
        "--num_gpus", type=at_least(0, float), default=0, help="GPUs of each worker, 0.5 say (default: 0)"
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="DETECTIONS.JSON",
        help="COCO file whose annotations are the boxes to segment and whose categories name them, in place of input_box and "
        "input_point; its file_names are relative to the folder of images. An image that it does not name counts as one "
        "without boxes and has no mask; images that are not in the folder are left out and counted",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="of the masks of all images: masks.json with run lengths or with polygons, or a folder labels for YOLO, with the "
        "names of its classes in data.yaml; simplified polygons need OpenCV (default: %(default)s)",
    )
    parser.add_argument("--address", help="of a running Ray; default: RAY_ADDRESS, or a Ray of its own on this machine")
    parameters = parser.add_argument_group("the plugin's parameters")
    defaults = as_text(Parameters())
    for name in (name for name in DECLARATION if name not in NO_OPTIONS):
        text = f"{DECLARATION[name].description} Accepted: {accepted(name)} (default: {defaults[name] or 'empty'})."
        parameters.add_argument(f"--{name}", metavar=type_name(name).upper(), help=text.replace("%", "%%"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    load_plugin(PLUGIN)
    from infer_segment_anything_2.segmentation.own_files import own_path
    from infer_segment_anything_2.segmentation.parameters import Parameters, as_text, update

    parser = options()
    args = parser.parse_args(arguments)
    given = {name: value for name, value in vars(args).items() if name in Parameters.model_fields and value is not None}
    for name in ("model_weight_file", "config_file"):
        path = own_path(given.get(name, ""))
        if os.path.isfile(path):
            given[name] = os.path.abspath(path)  # workers have another working directory, and maybe another home
    prompts = [name for name in ("input_box", "input_point", "input_point_label") if given.get(name)]
    try:
        if args.boxes and prompts:
            raise ValueError(f"boxes: it was given beside {prompts[0]}; accepted is one of them.")
        if args.format != "coco" and importlib.util.find_spec("cv2") is None:
            raise ValueError(
                f"format is {args.format}; accepted is coco where OpenCV is not installed (pip install opencv-python-headless)."
            )
        detections = read_detections(args.boxes) if args.boxes else None
        text = as_text(update(Parameters(), given))
        job = Job(
            images=args.images.absolute(),
            results=args.results.absolute(),
            parameters={name: text[name] for name in Parameters.model_fields if name not in NO_OPTIONS},
            device="cuda" if args.num_gpus else "cpu",
            threads=args.threads,
            plugin=PLUGIN,
            format=args.format,
        )
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.init(args.address, ignore_reinit_error=True, logging_level=logging.WARNING)
        before, now, errors, absent = segment_folder(job, args.workers, args.num_gpus, detections)
    except ValueError as error:
        parser.error(str(error))
    except ray.exceptions.RayError as error:
        text = str(error).split("\nThe above exception was")[0].strip()
        cause = re.split(r"\n(?=[\w.]+: )", text)[-1]  # what the worker raised stands below its trace
        print(f"The run broke off; the same command goes on with what is missing.\n{cause}", file=sys.stderr)
        return 2
    print(f"{now} images segmented, {before} were before, {len(errors)} failed. Everything is in {job.results}")
    if absent:
        print(f"{absent} images that {args.boxes} names are not among those in {job.images}")
    for name, error in list(errors.items())[:10]:
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
