"""Masks in files that other tools read: COCO JSON, YOLO text and label images.

>>> save_coco("masks.json", {"photo.jpg": masks})
>>> save_coco("polygons.json", {"photo.jpg": masks}, polygons=True)
>>> save_yolo("labels", {"photo.jpg": masks})
>>> save_labels("labels.png", masks)
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .locks import one_at_a_time
from .masks import RLE, Masks, decode
from .messages import in_short, not_accepted, shown
from .painting import class_names, label_image
from .polygons import DEFAULT_TOLERANCE, Polygon, check_tolerance, one_polygon, part_polygons
from .progress import is_unseen

#: The category of masks that nobody named.
NAMELESS = "object"

#: Images from which on a terminal shows a progress bar.
MANY = 20

#: By how the name of a file ends, what Pillow writes into it: what keeps every label, of 8 bits and of 16.
LABEL_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}

#: The file with the names of YOLO's classes, beside the labels.
NAMES_FILE = "data.yaml"

#: Seconds after which a call that waits for others to write it gives up: where a disk has no locks, it would wait forever.
LONGEST_WAIT = 60


def get_polygons(masks: Masks, tolerance: float = DEFAULT_TOLERANCE) -> list[list[Polygon]]:
    """The outlines of masks: for each mask a list with one polygon for each of its parts, none where it is empty.

    A polygon is (P, 2) float64, x and y in pixels of the image. It runs along the edges of pixels: that around the upper left
    one goes from 0, 0 to 1, 1. A hole is joined to the outline around it by a bridge without width.

    Args:
        masks: of one image.
        tolerance: how far in pixels a polygon may run from the exact outline; 0: it is exact, with every corner.

    Raises:
        ValueError: a tolerance below 0.
        ImportError: a tolerance above 0 where OpenCV is not installed.
    """
    check_tolerance(tolerance)
    return [part_polygons(mask, tolerance) for mask in masks]


def to_coco(
    images: Mapping[str, Masks] | Iterable[tuple[str, Masks]],
    polygons: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
) -> dict[str, Any]:
    """The masks of images in COCO's detection format, as pycocotools.coco.COCO, FiftyOne, CVAT and others read it.

    Args:
        images: the masks of each image by its file name, or pairs of both: one at a time if they are generated.
        polygons: write the polygons of :func:`get_polygons` in place of run lengths. At a tolerance of 0 pycocotools makes the
            same masks of them. A mask without a pixel has no polygon and keeps its run lengths.
        tolerance: of the polygons, in pixels.

    Returns:
        A tree for JSON. Each mask is an annotation with `segmentation` (compressed RLE, or polygons), `area` (pixels of the
        mask), `bbox` ([x, y, width, height] in pixels), `score` (the predicted IoU) and, from automatic mode,
        `stability_score`; of an object that is followed through a video `track_id`, the same in each frame. Categories are
        the names of the masks, in the order in which they come; "object" is that of masks without one.

    Raises:
        ValueError, ImportError: as :func:`get_polygons`.
    """
    check_tolerance(tolerance)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for name, masks in _with_bar(images, "COCO"):
        height, width = masks.image_hw
        entries.append({"id": len(entries) + 1, "file_name": str(name), "height": height, "width": width})
        for k, (rle, area, box) in enumerate(zip(masks.rles, masks.areas, masks.boxes_xyxy.tolist(), strict=True)):
            x0, y0, x1, y1 = box
            category = categories.setdefault(masks.name_of(k) or NAMELESS, len(categories) + 1)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": len(entries),
                "category_id": category,
                "iscrowd": 0,
                "segmentation": coco_polygons(rle, tolerance) if polygons and area else coco_rle(rle),
                "area": int(area),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(masks.scores[k]),
            }
            annotations.append(annotation | _of_some_masks(masks, k))
    return {
        "images": entries,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "object"}
            for name, number in (categories or {NAMELESS: 1}).items()
        ],
    }


def _of_some_masks(masks: Masks, k: int) -> dict[str, Any]:
    """What is in the annotation of mask `k` beside what all have."""
    found: dict[str, Any] = {}
    # NaN, which JSON has not, of a mask without a logit above its cutoff or a little below: nothing divided by nothing.
    if len(masks.stability_scores) and np.isfinite(masks.stability_scores[k]):
        found["stability_score"] = float(masks.stability_scores[k])
    if masks.is_followed:
        found["track_id"] = masks.ids[k]
    return found


def coco_rle(rle: RLE) -> dict[str, Any]:
    """COCO's `segmentation` of a mask as compressed run lengths, for JSON."""
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def coco_polygons(rle: RLE, tolerance: float = DEFAULT_TOLERANCE) -> list[list[float]]:
    """COCO's `segmentation` of a mask as polygons: x, y, x, y and so on, in hundredths of a pixel."""
    return [polygon.round(2).ravel().tolist() for polygon in part_polygons(decode(rle), tolerance)]


def save_coco(
    path: str | os.PathLike[str],
    images: Mapping[str, Masks] | Iterable[tuple[str, Masks]],
    polygons: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
) -> None:
    """Write the masks of images as a COCO JSON file; what it holds: :func:`to_coco`. A file that is there is replaced."""
    text = json.dumps(to_coco(images, polygons, tolerance), allow_nan=False)
    _replace(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def save_yolo(
    path: str | os.PathLike[str],
    masks: Masks | Mapping[str, Masks] | Iterable[tuple[str, Masks]],
    tolerance: float = DEFAULT_TOLERANCE,
    names: Sequence[str] = (),
) -> None:
    """Write masks as YOLO's segmentation labels, and the names of their classes into `data.yaml` beside them.

    A line is the index of a class and one polygon: x and y as fractions of the image's width and height. It runs through the
    centres of the outermost pixels, written a quarter of a pixel past the whole number: readers that round and readers that
    cut off get that pixel. Holes and parts are joined by bridges without width (:func:`.polygons.one_polygon`). A mask without
    a pixel has no line. A file that is there is replaced.

    `data.yaml` has `names:` as Ultralytics and supervision read it; what training wants beside it (`path`, `train`, `val`) is
    for you to add. Where it is there already, its names keep their indices and new ones follow, so that many calls can write
    into one folder, also from threads and processes at once. Masks without a name are of the class "object", which has index 0
    unless others had it before.

    Args:
        path: the text file of one image; of several the folder of their files: `a/b.jpg` in `a/b.txt`.
        masks: of one image, or of each image by its file name, or pairs of both: one at a time if they are generated.
        tolerance: how far in pixels a polygon may run from the exact outline.
        names: the first classes, in the order of their indices: those that `data.yaml` has, where it is there, and more.

    Raises:
        ValueError: a tolerance below 0, a `data.yaml` without names or with another name where `names` has one, a name of
            an image that leads out of the folder, or two whose labels are the same file.
        ImportError: a tolerance above 0 where OpenCV is not installed.
        OSError: a file, or the lock on `data.yaml`, that the system refuses.
    """
    check_tolerance(tolerance)
    path = Path(path)
    if isinstance(masks, Masks):
        _write_yolo(path, masks, tolerance, path.parent / NAMES_FILE, names)
        return
    path.mkdir(parents=True, exist_ok=True)
    with _alone_with(path / NAMES_FILE, path):
        _Classes(path / NAMES_FILE, names).save()
    image_of: dict[PurePath, str] = {}
    for name, of_image in _with_bar(masks, "YOLO"):
        file = label_file(name, path, image_of)
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        _write_yolo(path / file, of_image, tolerance, path / NAMES_FILE)


def label_file(name: str, folder: Path, image_of: dict[PurePath, str]) -> PurePath:
    """Where the YOLO labels of an image are in `folder`: `a/b.jpg` in `a/b.txt`; noted in `image_of`, the images so far.

    Raises:
        ValueError: a name that leads out of the folder, or another image has the same file.
    """
    file = PurePath(name).with_suffix(".txt")
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(not_accepted("image", name, f"a path relative to {shown(folder)}"))
    if image_of.setdefault(file, name) != name:
        raise ValueError(f"images: the labels of {image_of[file]} and {name} are both {file}; accepted is one of them.")
    return file


def _write_yolo(path: Path, masks: Masks, tolerance: float, names_file: Path, names: Sequence[str] = ()) -> None:
    height, width = masks.image_hw
    polygons = [(one_polygon(mask, tolerance) - 0.25) / (width, height) for mask in masks]
    with _alone_with(names_file, path):
        classes = _Classes(names_file, names)
        indices = classes.indices_of([masks.name_of(k) for k in range(len(masks))])
        lines = [
            f"{index} {' '.join(f'{value:.6f}' for value in polygon.ravel())}\n"
            for index, polygon in zip(indices, polygons, strict=True)
            if len(polygon)
        ]
        _replace(path, lambda partial: partial.write_text("".join(lines), encoding="utf-8"))
        classes.save()


@contextmanager
def _alone_with(names_file: Path, path: Path) -> Iterator[None]:
    """Hold the lock on `names_file`; why there is none is said of `path`."""
    last = time.monotonic() + LONGEST_WAIT

    def give_up(done: int, total: int | None) -> None:
        if time.monotonic() > last:
            raise TimeoutError(errno.ETIMEDOUT, f"it has not been free for {LONGEST_WAIT} seconds")

    with ExitStack() as held:
        try:
            os.stat(names_file.parent)  # some versions of filelock make a folder that is missing
            held.enter_context(one_at_a_time(names_file, give_up))
        except (OSError, RuntimeError) as error:  # RuntimeError: no locks on this disk
            number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or in_short(error)
            why = f"{why}, so that the lock {names_file.name}.lock cannot be taken"
            raise OSError(number or errno.ENOLCK, why, str(path)) from None
        yield


@lru_cache(maxsize=1)
def _parsed(text: str) -> Any:
    """What YAML says; of a thousand names it takes a tenth of a second, and image after image has the same."""
    return yaml.safe_load(text)


class _Classes:
    """The names of YOLO's classes in a file, each with its index."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self._file = file
        self._tree: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        if file.is_file():
            try:
                self._tree = dict(_parsed(file.read_text(encoding="utf-8")))
                listed = self._tree["names"]
                pairs = listed.items() if isinstance(listed, dict) else enumerate(listed)
                self._names = {int(index): str(name) for index, name in pairs}
            except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
                raise ValueError(
                    f"{shown(file)} cannot be read ({in_short(error)}); accepted is YAML with the names of classes as names:."
                ) from error
        for index, name in enumerate(names):
            known = self._names.setdefault(index, name)
            if known != name:
                raise ValueError(
                    f"names: {shown(name)} would have the index {index}, which {shown(file)} gives to {shown(known)} "
                    "in the labels beside it; accepted are names that begin as that file's do, or another folder."
                )

    def indices_of(self, names: Sequence[str]) -> list[int]:
        """The index of each of `names`; one that is new gets the next."""
        # Those without a name first, where they are among the first of all.
        new = [NAMELESS] if "" in names and not self._names else []
        for name in [*new, *(name or NAMELESS for name in names)]:
            if name not in self._names.values():
                self._names[max(self._names, default=-1) + 1] = name
        index_of = {name: index for index, name in reversed(self._names.items())}
        return [index_of[name or NAMELESS] for name in names]

    def save(self) -> None:
        """Write the file, unless it says the same."""
        listed = self._tree.get("names")
        if (dict(enumerate(listed)) if isinstance(listed, list) else listed) != self._names:
            self._tree["names"] = dict(self._names)
            if "nc" in self._tree:  # Ultralytics refuses another count
                self._tree["nc"] = len(self._names)
            text = yaml.safe_dump(self._tree, sort_keys=False, allow_unicode=True)
            _replace(self._file, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_labels(path: str | os.PathLike[str], masks: Masks) -> None:
    """Write all masks as one image: 0 background, k + 1 where mask k is on top, smaller masks above larger ones.

    It has 8 bits a pixel, or 16 where there are more than 255 masks. A file that is there is replaced. The text entry "names"
    of a PNG is a JSON list of the labels' names, "background" first: `Image.open(path).text["names"]` of Pillow.

    Args:
        path: of a PNG or a TIFF, as its end says.
        masks: of one image.

    Raises:
        ValueError: another kind of file, or more masks than 16 bits can number.
    """
    path = Path(path)
    how = LABEL_FORMATS.get(path.suffix.lower())
    if how is None:
        raise ValueError(
            not_accepted("path", str(path), f"a file that ends with {', '.join(LABEL_FORMATS)}, which keep every label")
        )
    most = np.iinfo(np.uint16).max
    if len(masks) > most:
        raise ValueError(f"{len(masks)} masks: accepted are at most {most} in a label image.")
    image = Image.fromarray(label_image(masks, most))
    text = PngInfo()
    text.add_text("names", json.dumps(class_names(masks, most)))
    _replace(path, lambda partial: image.save(partial, pnginfo=text, **how))  # a TIFF leaves it out


def _with_bar(images: Mapping[str, Masks] | Iterable[tuple[str, Masks]], title: str) -> Iterator[tuple[str, Masks]]:
    """The pairs of `images`, with a progress bar on a terminal if there are many, or nobody knows how many."""
    total = len(images) if isinstance(images, Sized) else None
    quiet = is_unseen() or (total is not None and total < MANY)
    pairs = images.items() if isinstance(images, Mapping) else images
    yield from pairs if quiet else tqdm(pairs, total=total, desc=title, unit="image", leave=False)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in full or not at all; what the system refuses is said of `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None:  # not of the system: Pillow's own
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
