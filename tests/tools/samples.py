"""The pictures of the demo, and where to point in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

ROOT = Path(__file__).resolve().parents[2]
#: What the demo writes of a video.
FOLLOWED = "clip_followed.mp4"
SCENE = ROOT / "images" / "sample_scene.png"
SCENE_OBJECTS = ROOT / "images" / "sample_scene_objects.png"

#: The bundled model rates its masks lower than the released ones do, which run with sam2's defaults.
AUTOMATIC = {
    "sam2_hiera_nano": {
        "points_per_side": "16",
        "iou_thresh": "0.6",
        "box_nms_thresh": "0.5",
        "use_m2m": "False",
    }
}

#: Objects of the sample scene, by their number in sample_scene_objects.png.
POT, PALETTE = 10, 6

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class DemoError(Exception):
    """The demo cannot go on; the message is for the user."""


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
    """A picture to segment, where to point in it, and the files that were written for it."""

    name: str
    path: Path
    point: Prompt
    box_and_points: Prompt
    files: list[str] = field(default_factory=list)


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
        [path.name],
    )


def checked(prompt: Prompt, image: npt.NDArray[np.uint8]) -> Prompt:
    """A prompt, refused in the plugin's words where it lies outside a picture (H, W, 3)."""
    from infer_segment_anything_2.segmentation.objects import typed_objects
    from infer_segment_anything_2.segmentation.prompt_text import parse_boxes, parse_labels, parse_points

    text = prompt.parameters()
    points, labels = parse_points(text["input_point"]), parse_labels(text["input_point_label"])
    typed_objects(points, labels, parse_boxes(text["input_box"]), image.shape[:2])
    return prompt


def own_sample(path: Path, point: Point | None = None, box: Box | None = None) -> Sample:
    """The user's picture; without a point its centre, without a box one of half its size, less one of its corners."""
    from ikomia.dataio import CDataImageIO  # brings the cv2 by which it reads pictures: turned as their EXIF data say

    import cv2  # isort: skip

    if path.is_file() and not CDataImageIO.is_image_format(path.suffix):
        raise DemoError(
            f"{path}: Ikomia goes by the suffix of a file and does not read {path.suffix or 'one without'}. Call a JPEG .jpg, "
            "or save the picture as PNG."
        )
    image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH) if path.is_file() else None
    if image is None:
        reason = "is not a picture that OpenCV can read" if path.exists() else "does not exist"
        raise DemoError(f"{path} {reason}.")
    name = re.sub(r"\W+", "_", path.stem).strip("_") or "image"
    height, width = image.shape[:2]
    centre = (width // 2, height // 2)
    at_point = checked(Prompt(points=[point or centre]), image)
    if box is not None:
        return Sample(name, path.absolute(), at_point, checked(Prompt(boxes=[box]), image))
    middle = (width // 4, height // 4, width - width // 4, height - height // 4)
    corner = (middle[0] + (middle[2] - middle[0]) // 20, middle[1] + (middle[3] - middle[1]) // 20)
    return Sample(name, path.absolute(), at_point, Prompt(points=[centre, corner], labels=[1, 0], boxes=[middle]))
