"""The demo's detector: faces, or else the largest areas of one colour, called after it ("red thing").

Import it after ikomia's home is set: it imports ikomia.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from ikomia import dataprocess  # brings the cv2 below
from skimage import data
from skimage.feature import Cascade

import cv2  # isort: skip

from infer_segment_anything_2.segmentation.images import to_rgb8  # isort: skip

#: What counts as which colour: the nearest one of these, as RGB.
COLOURS = {
    "red": (215, 30, 55),
    "orange": (235, 130, 45),
    "yellow": (250, 230, 80),
    "green": (70, 150, 40),
    "blue": (45, 110, 230),
    "purple": (150, 90, 190),
    "pink": (250, 170, 155),
    "beige": (205, 170, 130),
    "brown": (115, 70, 45),
    "grey": (125, 125, 125),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}

#: The longer side, in pixels, at which both are looked for: fine texture and noise are gone there.
SIDE = 256
#: Gaps up to the first width are closed, then whatever is narrower than the second is taken away.
CLOSED, OPENED = 3, 7
#: Blobs of a smaller or larger part of the picture are left out.
SMALLEST, LARGEST = 0.01, 0.4

#: Of the shorter side of the picture: the smallest face, and how much more than what the cascade looks at belongs to it.
SMALLEST_FACE, AROUND_FACE = 0.12, 0.1
CASCADE_SIDE = 24  # pixels of the smallest face that the cascade knows


@dataclass(frozen=True)
class Blob:
    """An area of one colour.

    Attributes:
        colour: a name of COLOURS.
        box: x, y, width, height in pixels of the picture.
        area: its part of the picture, 0 to 1.
        fills: its part of its box, 0 to 1.
    """

    colour: str
    box: tuple[float, float, float, float]
    area: float
    fills: float


def find_blobs(image: npt.NDArray[np.uint8], most: int = 8) -> list[Blob]:
    """The `most` largest blobs of a picture (H, W, 3) uint8 RGB, the largest first.

    The colour that most of the picture has is taken for the background.
    """
    small, scale = _shrunk(image)
    nearest = _nearest_colours(cv2.medianBlur(small, 5))
    background = np.bincount(nearest.ravel()).argmax()
    blobs = []
    for number, colour in enumerate(COLOURS):
        if number == background:
            continue
        on = cv2.morphologyEx(np.uint8(nearest == number), cv2.MORPH_CLOSE, _disc(CLOSED))
        on = cv2.morphologyEx(on, cv2.MORPH_OPEN, _disc(OPENED))
        _, _, found, _ = cv2.connectedComponentsWithStats(on, connectivity=4)
        for *box, pixels in found[1:]:  # the first is what is left over
            blobs.append(Blob(colour, tuple(box * scale), pixels / on.size, pixels / (box[2] * box[3])))
    fitting = [blob for blob in blobs if SMALLEST <= blob.area <= LARGEST]
    return sorted(fitting, key=lambda blob: -blob.area)[:most]


@cache
def _cascade() -> Cascade:
    """scikit-image's detector of faces seen from the front, by local binary patterns."""
    return Cascade(data.lbp_frontal_face_cascade_filename())


def find_faces(image: npt.NDArray[np.uint8]) -> list[tuple[float, float, float, float]]:
    """x, y, width and height of the faces in a picture (H, W, 3) uint8 RGB."""
    small, scale = _shrunk(image)
    shorter = min(small.shape[:2])
    if shorter < CASCADE_SIDE:
        return []
    smallest = max(round(SMALLEST_FACE * shorter), CASCADE_SIDE)
    found = _cascade().detect_multi_scale(
        img=small, scale_factor=1.2, step_ratio=1, min_size=(smallest,) * 2, max_size=(shorter,) * 2
    )
    boxes = [np.array([face["c"], face["r"], face["width"], face["height"]]) for face in found]
    around = [np.concatenate([box[:2] - AROUND_FACE * box[2:], (1 + 2 * AROUND_FACE) * box[2:]]) for box in boxes]
    return [tuple(box * scale) for box in around]


def _shrunk(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """A picture at SIDE pixels, and what x, y, width and height in it are multiplied by for the picture (4,)."""
    zoom = min(1.0, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(zoom * length)) for length in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small, np.array([image.shape[1] / width, image.shape[0] / height] * 2)


def _nearest_colours(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """(H, W): for each pixel the number of the colour that is nearest to it as the eye sees them (Lab)."""
    seen, known = (cv2.cvtColor(np.float32(rgb) / 255, cv2.COLOR_RGB2LAB) for rgb in (image, [list(COLOURS.values())]))
    return np.linalg.norm(seen[:, :, None] - known[0], axis=-1).argmin(axis=-1)


def _disc(width: int) -> npt.NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


class FacesAndBlobs(dataprocess.CObjectDetectionTask):
    """Faces or blobs of its image as an Ikomia object detection. The confidence is how much of its box a blob fills."""

    def __init__(self) -> None:
        dataprocess.CObjectDetectionTask.__init__(self, "faces_and_blobs")

    def get_progress_steps(self) -> int:
        """How far Studio's bar goes in one run."""
        return 1

    def run(self) -> None:
        """Find the faces, or else the blobs, of input 0."""
        self.begin_task_run()
        rgb = to_rgb8(self.get_input(0).get_image())  # of 16 bits and floats as the plugin sees them
        found = [("face", 1.0, box) for box in find_faces(rgb)]
        found = found or [(f"{blob.colour} thing", blob.fills, blob.box) for blob in find_blobs(rgb)]
        names = list(dict.fromkeys(name for name, _, _ in found))
        self.set_names(names)
        for number, (name, confidence, box) in enumerate(found):
            self.add_object(number, names.index(name), confidence, *box)
        self.emit_step_progress()
        self.end_task_run()
