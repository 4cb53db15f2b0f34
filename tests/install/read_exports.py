"""What supervision and Ultralytics read of exports, with their own readers: `make test-install` installs both and runs it.

They bring an OpenCV of their own, and so are kept out of the environment that has Ikomia with its OpenCV.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import supervision
from PIL import Image
from ultralytics.data.utils import polygon2mask, verify_image_label

ROOT = Path(__file__).resolve().parents[2]
HW = (123, 321)


def main() -> None:
    """Write masks, read them, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "infer_segment_anything_2").symlink_to(ROOT)
        sys.path.insert(0, name)
        from infer_segment_anything_2.segmentation.export import save_coco, save_yolo
        from infer_segment_anything_2.segmentation.masks import Masks, empty, encode

        shapes = pictures()
        masks = Masks(
            HW, [*map(encode, shapes), empty(HW)], np.ones(5, np.float32), names=["pot", "taxi", "", "pot", "cup"]
        )
        (folder / "images").mkdir()
        Image.new("RGB", HW[::-1]).save(folder / "images" / "a.png")
        exact, default = folder / "exact", folder / "default"
        save_yolo(exact, {"a.png": masks}, tolerance=0)
        save_yolo(default, {"a.png": masks})
        save_coco(folder / "lengths.json", {"a.png": masks})
        save_coco(folder / "polygons.json", {"a.png": masks}, polygons=True)

        for labels, least in ((exact, 1.0), (default, 0.97)):
            compare(*ultralytics_reads(folder / "images" / "a.png", labels / "a.txt"), shapes, [1, 2, 0, 1], least)
            compare(*supervision_reads_yolo(folder / "images", labels), shapes, [1, 2, 0, 1], least)
        dataset = supervision.DetectionDataset.from_coco(str(folder / "images"), str(folder / "lengths.json"), True)
        ((_, _, found),) = list(dataset)
        compare(found.class_id, list(found.mask), [*shapes, np.zeros(HW, bool)], [0, 1, 2, 0, 3], 1.0)
        # It draws with OpenCV what runs along the edges of pixels: a pixel more on the right and below.
        dataset = supervision.DetectionDataset.from_coco(str(folder / "images"), str(folder / "polygons.json"), True)
        ((_, _, found),) = list(dataset)
        compare(found.class_id[:4], list(found.mask)[:4], shapes, [0, 1, 2, 0], 0.85)
    print("supervision and Ultralytics read what was written.")


def pictures() -> list[np.ndarray]:
    """A disc, one with a hole, two parts, and a box in the corner."""
    y, x = np.indices(HW)
    disc = (x - 90) ** 2 + (y - 60) ** 2 < 50**2
    ring = disc & ((x - 80) ** 2 + (y - 55) ** 2 > 20**2)
    parts = ((x - 220) ** 2 + (y - 50) ** 2 < 30**2) | ((x - 290) ** 2 + (y - 60) ** 2 < 22**2)
    return [disc, ring, parts, (x > 300) & (y > 90)]


def ultralytics_reads(image: Path, labels: Path) -> tuple[list[int], list[np.ndarray]]:
    """Classes and masks as its training has them before it resizes the image."""
    _, boxes, shape, segments, _, _, found, _, corrupt, message = verify_image_label(
        (str(image), str(labels), "", False, 4, 0, 0, False)
    )
    assert (shape, found, corrupt, message) == (HW, 1, 0, ""), message
    drawn = [polygon2mask(HW, [(segment * HW[::-1]).reshape(-1)]).astype(bool) for segment in segments]
    return boxes[:, 0].astype(int).tolist(), drawn


def supervision_reads_yolo(images: Path, labels: Path) -> tuple[list[int], list[np.ndarray]]:
    """Classes and masks of the one image in a data set."""
    dataset = supervision.DetectionDataset.from_yolo(str(images), str(labels), str(labels / "data.yaml"))
    assert dataset.classes == ["object", "pot", "taxi", "cup"]
    ((_, _, found),) = list(dataset)
    return found.class_id.tolist(), list(found.mask)


def compare(
    classes: list[int], drawn: list[np.ndarray], masks: list[np.ndarray], expected: list[int], least: float
) -> None:
    """AssertionError unless classes are those expected and each mask has that IoU, but for lines between parts."""
    assert list(classes) == expected, (classes, expected)
    for k, (found, mask) in enumerate(zip(drawn, masks, strict=True)):
        line = 60 if k == 2 else 0
        outside = max((found & ~mask).sum() - line, 0)
        overlap = (found & mask).sum() / max(mask.sum() + outside, 1) if mask.any() else float(not found.any())
        assert overlap >= least, (k, overlap)


if __name__ == "__main__":
    main()
