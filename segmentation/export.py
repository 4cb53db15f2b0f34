"""Masks in files that other tools read: COCO JSON and label images.

>>> save_coco("masks.json", {"photo.jpg": masks})
>>> save_labels("labels.png", masks)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .masks import Masks
from .painting import class_names, label_image

#: The category of masks that nobody named.
NAMELESS = "object"

#: Images from which on a terminal shows a progress bar.
MANY = 20


def to_coco(images: Mapping[str, Masks] | Iterable[tuple[str, Masks]]) -> dict[str, Any]:
    """The masks of images in COCO's detection format, as pycocotools.coco.COCO, FiftyOne, CVAT and others read it.

    Args:
        images: the masks of each image by its file name, or pairs of both: one at a time if they are generated.

    Returns:
        A tree for JSON. Each mask is an annotation with `segmentation` (compressed RLE), `area` (pixels), `bbox`
        ([x, y, width, height] in pixels), `score` (the predicted IoU) and, from automatic mode, `stability_score`; of an
        object that is followed through a video `track_id`, the same in each frame.
        Categories are the names of the masks, in the order in which they come; "object" is that of masks without one.
    """
    pairs = images.items() if isinstance(images, Mapping) else images
    total = len(images) if isinstance(images, Sized) else None
    quiet = True if total is not None and total < MANY else None  # None: where there is a terminal
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for name, masks in tqdm(pairs, total=total, desc="COCO", unit="image", disable=quiet, leave=False):
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
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                "area": int(area),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(masks.scores[k]),
            }
            if len(masks.stability_scores):
                annotation["stability_score"] = float(masks.stability_scores[k])
            if masks.is_followed:
                annotation["track_id"] = masks.ids[k]
            annotations.append(annotation)
    return {
        "images": entries,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "object"}
            for name, number in (categories or {NAMELESS: 1}).items()
        ],
    }


def save_coco(path: str | os.PathLike[str], images: Mapping[str, Masks] | Iterable[tuple[str, Masks]]) -> None:
    """Write the masks of images as a COCO JSON file; what it holds: :func:`to_coco`. A file that is there is replaced."""
    text = json.dumps(to_coco(images), allow_nan=False)
    _replace(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def save_labels(path: str | os.PathLike[str], masks: Masks) -> None:
    """Write all masks as one PNG: 0 background, k + 1 where mask k is on top, smaller masks above larger ones; 8 bits a pixel,
    or 16 where there are more than 255 masks. A file that is there is replaced.

    Its text entry "names" is a JSON list of the labels' names, "background" first: `Image.open(path).text["names"]` of Pillow.

    Raises:
        ValueError: more masks than 16 bits can number.
    """
    most = np.iinfo(np.uint16).max
    if len(masks) > most:
        raise ValueError(f"{len(masks)} masks: accepted are at most {most} in a label image.")
    image = Image.fromarray(label_image(masks, most))
    text = PngInfo()
    text.add_text("names", json.dumps(class_names(masks, most)))
    _replace(Path(path), lambda partial: image.save(partial, format="PNG", pnginfo=text))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in full or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
