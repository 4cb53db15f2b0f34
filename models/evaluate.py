"""Measure sam2_hiera_nano on held-out objects: every figure of README.md's table.

    python evaluate.py                        # 100 scenes of each kind, automatic mode on 40 of the photographs
    python evaluate.py --sheet sheet.png      # and pictures of predictions, to look at
    python evaluate.py --kinds photographs --scenes 50 --weights other.pt
    python evaluate.py --photographs before_and_now.jpg --before old.pt old.yaml    # nothing but README.md's picture

Seeds are fixed: the same weights give the same figures. `python data.py` fetches the pictures first.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from photo_scenes import held_out_scene
from sam2.sam2_image_predictor import SAM2ImagePredictor
from scenes import PREPARED, Scene, bounding_box, emoji_split, inner_point, scene
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from segmentation.search import AutomaticSettings
from segmentation.segmenter import Segmenter, open_segmenter

HERE = Path(__file__).parent
logger = logging.getLogger(__name__)
KINDS = {"scenes": "plain", "photographs": "", "ink": "sketch"}  # and their kind in scenes.py
SIZE = 512
FIRST_SEED = 10**9
MOST_DISTANCE = 50.0  # px: farther borders, and those of empty masks, count as this
AUTOMATIC = {
    "points_per_side": 16,
    "multimask_output": False,
    "use_m2m": True,
}  # the plugin's defaults but for the grid
# The README's settings for this model, and those that the weights of version 2.0.0 needed.
NOW = {"points_per_side": 16, "multimask_output": False, "pred_iou_thresh": 0.6, "box_nms_thresh": 0.5}
BEFORE = NOW | {"stability_score_thresh": 0.7}
COLUMNS = ("picture", "truth", "point", "box", "automatic mode")

POSTPROCESSING = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}

Masks = npt.NDArray[np.bool_]


@dataclass
class Figures:
    """What is measured, one entry an object unless said; `summary` gives the means."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values: npt.ArrayLike) -> None:
        """Append values to the list of a name."""
        self.values.setdefault(name, []).extend(np.asarray(values, float).ravel().tolist())

    def summary(self) -> dict[str, float]:
        """Mean of each list."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}


def load(config: Path, weights: Path, postprocessing: bool = True) -> nn.Module:
    """Return the model in evaluation mode, float32, on the processor.

    postprocessing: as build_sam2's apply_postprocessing: where the one mask asked for is unstable, give the
        best of three instead.
    """
    settings = OmegaConf.load(config).model
    if postprocessing:
        settings.sam_mask_decoder_extra_args = POSTPROCESSING
    model = instantiate(settings, _recursive_=True)
    state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict(state)
    return model.eval()


def fit_sizes(predictor: SAM2ImagePredictor) -> SAM2ImagePredictor:
    """Correct the feature sizes that SAM2ImagePredictor (1.1.0) hard-codes for 1024 px."""
    predictor._bb_feat_sizes = [(predictor.model.image_size // s,) * 2 for s in (4, 8, 16)]
    return predictor


def iou(a: Masks, b: Masks) -> npt.NDArray[np.float64]:
    """IoU of masks (N, H, W) with (M, H, W): (N, M)."""
    x, y = a.reshape(len(a), -1).astype(np.float32), b.reshape(len(b), -1).astype(np.float32)
    both = x @ y.T
    return both / np.maximum(x.sum(1)[:, None] + y.sum(1)[None] - both, 1)


def predict(
    predictor: SAM2ImagePredictor,
    multi: bool,
    points: npt.NDArray | None = None,
    boxes: npt.NDArray | None = None,
) -> tuple[Masks, npt.NDArray[np.float32]]:
    """Predict for N objects of the current picture at once.

    Args:
        points: (N, 1, 2) pixels, foreground. boxes: (N, 4) pixels, XYXY.

    Returns:
        masks (N, M, H, W) and predicted IoU (N, M); M is 3 where `multi`, else 1.
    """
    labels = None if points is None else np.ones(points.shape[:2], np.int32)
    _, coords, labels, box = predictor._prep_prompts(points, labels, boxes, None, True)
    masks, scores, _ = predictor._predict(coords, labels, box, None, multi)
    return masks.numpy() > 0, scores.numpy()


def measure_prompts(predictor: SAM2ImagePredictor, made: Scene, r: random.Random, figures: Figures) -> dict[str, Masks]:
    """Prompt for every object of the current picture.

    Returns:
        masks (N, H, W) by kind of prompt: "point" (the one with the best predicted IoU), "box", and so on.
    """
    points = np.array([[inner_point(mask, r)] for mask in made.masks], np.float32)
    boxes = np.array([bounding_box(mask) for mask in made.masks], np.float32)
    each = np.arange(len(made.masks))

    masks, scores = predict(predictor, True, points=points)
    real = np.array([iou(mine, wanted[None])[:, 0] for mine, wanted in zip(masks, made.masks, strict=True)])
    guess = scores.argmax(1)
    figures.add("point, best of three masks", real.max(1))
    figures.add("point, mask with the best predicted IoU", real[each, guess])
    figures.add("error of the predicted IoU", np.abs(real - scores))
    found = {"point": masks[each, guess]}
    for name, prompt in (
        ("point, one-mask output", {"points": points}),
        ("box", {"boxes": boxes}),
        ("box and point", {"boxes": boxes, "points": points}),
    ):
        masks, scores = predict(predictor, False, **prompt)
        real = np.array([iou(mine, wanted[None])[0, 0] for mine, wanted in zip(masks, made.masks, strict=True)])
        figures.add(name, real)
        figures.add("error of the predicted IoU", np.abs(real - scores[:, 0]))
        found[name] = masks[:, 0]
    pairs = zip(found["box"], made.masks, strict=True)
    figures.add("border error of a box's mask, px", [border_error(mask, wanted) for mask, wanted in pairs])
    return found


def border_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(H, W) the pixels inside a mask (H, W) that touch its outside; the picture's edge is no border."""
    return mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def border_error(mask: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> float:
    """Mean distance in px of a mask's border from the true one, at most MOST_DISTANCE each."""
    mine, true = border_of(mask), border_of(wanted)
    if not mine.any() or not true.any():
        return MOST_DISTANCE
    distance = cv2.distanceTransform((~true).astype(np.uint8), cv2.DIST_L2, 5)
    return float(np.minimum(distance[mine], MOST_DISTANCE).mean())


def segment_all(segmenter: Segmenter, image: npt.NDArray[np.uint8], settings: Mapping[str, Any] = AUTOMATIC) -> Masks:
    """All masks (N, H, W) of a picture that the plugin's automatic mode finds, the largest first."""
    masks = segmenter.generate(image, AutomaticSettings(**settings))
    found = sorted((np.asarray(mask) for mask in masks), key=lambda mask: -mask.sum())
    return np.array(found, bool).reshape(-1, *image.shape[:2])


def paint(image: npt.NDArray[np.uint8], masks: Masks) -> npt.NDArray[np.uint8]:
    """The picture in grey with masks in colours and outlined, later ones on top."""
    out = np.repeat(image.mean(2, keepdims=True), 3, 2) * 0.7
    for number, mask in enumerate(masks):
        colour = cv2.cvtColor(np.uint8([[[number * 67 % 180, 220, 255]]]), cv2.COLOR_HSV2RGB)[0, 0].astype(float)
        out[mask] = 0.4 * out[mask] + 0.6 * colour
        out[border_of(mask)] = colour
    return out.astype(np.uint8)


def photographs() -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Four photographs of scikit-image, at most 512 px a side; training has the rocket's as a ground."""
    from skimage import data

    for load_photo in (data.astronaut, data.coffee, data.chelsea, data.rocket):
        photo = load_photo()
        scale = SIZE / max(photo.shape[:2])
        yield load_photo.__name__, cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def sheet_row(pictures: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Pictures side by side, each fitted into 320 x 320 px."""
    cells = []
    for picture in pictures:
        scale = 320 / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cell = np.full((320, 320, 3), 255, np.uint8)
        cell[: small.shape[0], : small.shape[1]] = small
        cells.append(cell)
    return np.concatenate(cells, 1)


def held_out(kind: str, seed: int) -> Scene:
    """A scene of one of KINDS."""
    if kind == "photographs":
        return held_out_scene(seed, SIZE)
    return scene(seed, SIZE, emoji_split(str(PREPARED / "emoji"))[1], KINDS[kind])


def measure_automatic(segmenter: Segmenter, made: Scene, figures: Figures) -> None:
    """Count the objects of a scene that automatic mode finds."""
    masks = segment_all(segmenter, made.image)
    best = iou(made.masks, masks).max(1) if len(masks) else np.zeros(len(made.masks))
    figures.add("automatic mode finds at IoU 0.5", best >= 0.5)
    figures.add("automatic mode finds at IoU 0.75", best >= 0.75)
    figures.add("automatic mode, masks a picture", len(masks))


def measure(predictor: SAM2ImagePredictor, segmenter: Segmenter, kind: str, args: argparse.Namespace) -> Figures:
    """The figures of a kind of scene."""
    figures = Figures()
    count = max(args.scenes, args.automatic if kind == "photographs" else 0)
    for index in range(count):
        made = held_out(kind, FIRST_SEED + index)
        if index < args.scenes:
            predictor.set_image(made.image)
            measure_prompts(predictor, made, random.Random(FIRST_SEED + index), figures)
        if kind == "photographs" and index < args.automatic:
            measure_automatic(segmenter, made, figures)
        if (index + 1) % 20 == 0:
            logger.info("... %s: %d of %d scenes", kind, index + 1, count)
    return figures


def draw(predictor: SAM2ImagePredictor, segmenter: Segmenter, args: argparse.Namespace) -> None:
    """Write the sheet of predictions."""
    rows = []
    for kind in args.kinds:
        for seed in range(FIRST_SEED, FIRST_SEED + args.rows):
            made = held_out(kind, seed)
            predictor.set_image(made.image)
            found = measure_prompts(predictor, made, random.Random(seed), Figures())
            columns = (made.masks, found["point"], found["box"], segment_all(segmenter, made.image))
            rows.append(sheet_row([made.image, *(paint(made.image, masks) for masks in columns)]))
    for name, photo in photographs():
        masks = segment_all(segmenter, photo)
        logger.info("%s: %d masks", name, len(masks))
        rows.append(sheet_row([photo, paint(photo, masks)] + [np.full_like(photo, 255)] * 3))
    cv2.imwrite(str(args.sheet), np.concatenate(rows)[..., ::-1])


def draw_photographs(before: Segmenter, now: Segmenter, path: Path) -> None:
    """Write the photographs with all masks of two models beside each other, a photograph a row, as a JPEG."""
    rows = []
    for name, photo in photographs():
        found = segment_all(before, photo, BEFORE), segment_all(now, photo, NOW)
        logger.info("%s: %d and %d masks", name, *map(len, found))
        row = sheet_row([photo, *(paint(photo, masks) for masks in found)])
        rows.append(row[: row.shape[0] * photo.shape[0] // max(photo.shape[:2])])
    sheet = cv2.resize(np.concatenate(rows), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])


def parse() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=Path, default=HERE / "sam2_hiera_nano.pt")
    p.add_argument("--config", type=Path, default=HERE / "sam2_hiera_nano.yaml")
    p.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    p.add_argument("--scenes", type=int, default=100, help="of each kind")
    p.add_argument("--automatic", type=int, default=40, metavar="N", help="automatic mode on the first N photographs")
    p.add_argument("--sheet", type=Path, help=f"write a PNG: {', '.join(COLUMNS)}; last the sample photographs")
    p.add_argument("--photographs", type=Path, help="write only a picture: photographs, masks of --before, masks now")
    p.add_argument(
        "--before", type=Path, nargs=2, metavar=("WEIGHTS", "CONFIG"), help="the other model of --photographs"
    )
    p.add_argument("--rows", type=int, default=6, help="scenes of each kind on the sheet")
    p.add_argument("--no-postprocessing", action="store_true", help="as build_sam2(apply_postprocessing=False)")
    p.add_argument("--json", type=Path, help="write the figures")
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


@torch.inference_mode()
def main() -> None:
    """Measure, log, draw."""
    args = parse()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    torch.set_num_threads(args.threads)
    model = load(args.config, args.weights, not args.no_postprocessing)
    predictor = fit_sizes(SAM2ImagePredictor(model))
    segmenter = open_segmenter(model_weight_file=str(args.weights), config_file=str(args.config))
    if args.photographs:
        weights, config = map(str, args.before)
        draw_photographs(open_segmenter(model_weight_file=weights, config_file=config), segmenter, args.photographs)
        return
    result = {kind: measure(predictor, segmenter, kind, args).summary() for kind in args.kinds}
    for kind, figures in result.items():
        logger.info("%s: %s, %d scenes from seed %d", args.weights.name, kind, args.scenes, FIRST_SEED)
        for name, value in figures.items():
            logger.info("  %s: %.3f", name, value)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))
    if args.sheet:
        draw(predictor, segmenter, args)


if __name__ == "__main__":
    main()
