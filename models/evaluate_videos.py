"""Measure how sam2_hiera_nano follows objects through held-out clips, from boxes in the first frame, with the plugin's tracker.

    python evaluate_videos.py                       # 40 clips of 21 frames
    python evaluate_videos.py --strip strip.png     # and some of them, to look at

J is the IoU of an object's mask with what is visible of it; seeds are fixed: the same weights give the same figures.
"""

import argparse
import logging
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from clips import SMALLEST, Clip, held_out_clip
from evaluate import FIRST_SEED, HERE, SIZE, Figures, paint, sheet_row
from scenes import bounding_box

sys.path.insert(0, str(Path(__file__).parents[1]))
from segmentation.objects import Object
from segmentation.segmenter import Segmenter, open_segmenter

logger = logging.getLogger(__name__)
Masks = npt.NDArray[np.bool_]


def follow(segmenter: Segmenter, made: Clip) -> Masks:
    """(T, N, H, W): the objects of a clip as they are followed from their boxes in the first frame."""
    objects = [Object(box=np.array(bounding_box(mask), np.float32)) for mask in made.masks[0]]
    tracker, found = segmenter.tracker(), []
    for image in made.images:
        masks = segmenter.follow(tracker, image)
        if not len(tracker):
            _, masks = segmenter.begin(tracker, image, objects)
        found.append(np.stack(list(masks)))
    return np.array(found)


def measure(segmenter: Segmenter, args: argparse.Namespace) -> tuple[Figures, list[npt.NDArray[np.uint8]]]:
    """The figures of all clips, and rows of pictures of the first ones."""
    figures, rows = Figures(), []
    for seed in range(FIRST_SEED, FIRST_SEED + args.clips):
        made = held_out_clip(seed, SIZE, args.frames)
        found = follow(segmenter, made)
        visible = made.masks.mean((2, 3)) > SMALLEST
        both, either = (found & made.masks).sum((2, 3)), (found | made.masks).sum((2, 3))
        j = both / np.maximum(either, 1)
        figures.add("J in the first frame", j[0][visible[0]])
        figures.add("mean J of the frames after it", j[1:][visible[1:]])
        figures.add("J in the last frame", j[-1][visible[-1]])
        figures.add("hidden and nothing is shown", ~found[~visible].any((1, 2)))
        figures.add("visible and something is shown", found[visible].any((1, 2)))
        if len(rows) < args.rows:
            pictures = [paint(made.images[k], found[k]) for k in np.linspace(0, args.frames - 1, 6).astype(int)]
            rows.append(sheet_row([made.images[0], *pictures]))
    return figures, rows


@torch.inference_mode()
def main() -> None:
    """Measure, log, draw."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, default=HERE / "sam2_hiera_nano.pt")
    p.add_argument("--config", type=Path, default=HERE / "sam2_hiera_nano.yaml")
    p.add_argument("--clips", type=int, default=40)
    p.add_argument("--frames", type=int, default=21)
    p.add_argument("--strip", type=Path, help="write a PNG: the first frame, then what is followed in six frames")
    p.add_argument("--rows", type=int, default=8, help="clips on the strip")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    segmenter = open_segmenter(model_weight_file=str(args.weights), config_file=str(args.config))
    figures, rows = measure(segmenter, args)
    logger.info("%s: %d clips of %d frames from seed %d", args.weights.name, args.clips, args.frames, FIRST_SEED)
    for name, value in figures.summary().items():
        logger.info("  %s: %.3f (%d)", name, value, len(figures.values[name]))
    if args.strip:
        cv2.imwrite(str(args.strip), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    main()
