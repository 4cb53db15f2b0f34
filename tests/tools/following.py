"""Follows objects through a video with the plugin in an Ikomia workflow, and writes what comes out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import ikomia  # noqa: F401 - before cv2, which comes with it
import numpy as np
from drawing import RGB, with_prompt
from PIL import Image
from samples import FOLLOWED, DemoError, Prompt

import cv2  # isort: skip

if TYPE_CHECKING:
    from demo import SegmentingWorkflow

STRIP_FRAMES = 7


@dataclass(frozen=True)
class Followed:
    """What following through a video gave: frames, objects, seconds of all runs, some frames as pictures with a text, files."""

    frames: int
    objects: int
    seconds: float
    strip: list[tuple[str, Image.Image]] = field(repr=False)
    files: list[str] = field(repr=False)


def frames_of(video: Path) -> Iterator[RGB]:
    """The frames of a video, (H, W, 3) uint8 RGB."""
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise DemoError(f"{video} {'is not a video that OpenCV can read' if video.exists() else 'does not exist'}.")
    while (read := capture.read())[0]:
        yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)


def frames_per_second(video: Path) -> float:
    """As the video says, or 10."""
    return cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FPS) or 10.0


class VideoFile:
    """A video that is written frame by frame: H.264 in an .mp4."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: RGB) -> None:
        """Append a frame (H, W, 3) uint8 RGB."""
        height, width = (length // 2 * 2 for length in frame.shape[:2])  # the format knows even sizes alone
        if self._writer is None:
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"avc1"), self.rate, (width, height))
            if not self._writer.isOpened():
                raise DemoError(f"OpenCV cannot write {self.path}.")
        self._writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


def follow(workflow: SegmentingWorkflow, video: Path, prompt: Prompt, out: Path, width: int) -> Followed:
    """Follow what `prompt` points at in the first frame of a video, and write what is found to the folder `out`.

    `width` is that of the pictures of the strip, in pixels.
    """
    from infer_segment_anything_2.segmentation.export import save_coco

    task = workflow.task
    task.set_parameters({"track": "True", "multimask_output": "False"} | prompt.parameters())
    task.start_video()
    followed, masks, seconds = VideoFile(out / FOLLOWED, frames_per_second(video)), {}, 0.0
    shown: list[tuple[str, Image.Image]] = []
    every = 1  # not all of a long video: its pictures would fill the memory
    for number, frame in enumerate(frames_of(video)):
        start = time.perf_counter()
        workflow.workflow.run_on(array=frame)
        seconds += time.perf_counter() - start
        masks[f"frame_{number:06}.png"] = task.get_masks()[0]
        overlay = np.ascontiguousarray(task.get_output(0).get_image_with_mask(task.get_output(1))[..., :3])
        followed.write(overlay)
        last = f"frame {number + 1}", with_prompt(overlay, Prompt() if number else prompt, width)
        if number % every == 0:
            shown.append(last)
        if len(shown) == 8 * STRIP_FRAMES:
            shown, every = shown[::2], 2 * every
    followed.close()
    if not masks:
        raise DemoError(f"{video} has no frame.")
    save_coco(str(out / "clip_followed_coco.json"), masks)
    shown[-1] = last  # whatever was left out
    strip = [shown[k] for k in np.linspace(0, len(shown) - 1, STRIP_FRAMES).round().astype(int)]
    objects = len(next(iter(masks.values())))
    return Followed(len(masks), objects, seconds, strip, [FOLLOWED, "clip_followed_coco.json"])
