"""Measure sam2_hiera_nano on scenes of held-out objects that training never saw.

python evaluate.py --emoji EMOJI                       # 200 scenes: point, box, box and point
python evaluate.py --emoji EMOJI --automatic 60        # automatic mode as well, on the first 60 of them
python evaluate.py --emoji EMOJI --style other         # drawn in a style that was not in training
python evaluate.py --emoji EMOJI --sheet sheet.png     # a picture of predictions, to look at
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.sam2_image_predictor import SAM2ImagePredictor
from scenes import Scene, bounding_box, emoji_split, inner_point, scene
from torch import nn

HERE = Path(__file__).parent
STYLES = {"plain": "plain", "other": "sketch"}
SIZE = 512
AUTOMATIC = {
    "points_per_side": 16,
    "pred_iou_thresh": 0.4,
    "stability_score_thresh": 0.7,
    "box_nms_thresh": 0.5,
}

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
    model.load_state_dict({name: value.float() for name, value in state.items()})
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
    return found


def segment_all(generator: SAM2AutomaticMaskGenerator, image: npt.NDArray[np.uint8]) -> Masks:
    """All masks (N, H, W) of a picture, the largest first."""
    records = sorted(generator.generate(image), key=lambda record: -record["area"])
    return np.array([record["segmentation"] for record in records], bool).reshape(-1, *image.shape[:2])


def paint(image: npt.NDArray[np.uint8], masks: Masks) -> npt.NDArray[np.uint8]:
    """The picture in grey with masks in colours and outlined, later ones on top."""
    out = np.repeat(image.mean(2, keepdims=True), 3, 2) * 0.7
    for number, mask in enumerate(masks):
        colour = cv2.cvtColor(np.uint8([[[number * 67 % 180, 220, 255]]]), cv2.COLOR_HSV2RGB)[0, 0].astype(float)
        out[mask] = 0.4 * out[mask] + 0.6 * colour
        border = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        out[border] = colour
    return out.astype(np.uint8)


def photographs() -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Three photographs of scikit-image that training does not see, at most 512 px a side."""
    from skimage import data

    for load_photo in (data.astronaut, data.coffee, data.chelsea):
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


def parse() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--emoji", required=True, help="folder of the .webp of @lobehub/fluent-emoji-3d (package/assets)")
    p.add_argument("--weights", type=Path, default=HERE / "sam2_hiera_nano.pt")
    p.add_argument("--config", type=Path, default=HERE / "sam2_hiera_nano.yaml")
    p.add_argument("--scenes", type=int, default=200)
    p.add_argument("--seed", type=int, default=10**9, help="of the first scene; the others follow")
    p.add_argument("--style", choices=STYLES, default="plain", help="other: a drawing style that was not in training")
    p.add_argument("--automatic", type=int, default=0, metavar="N", help="measure automatic mode on the first N scenes")
    p.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help=f"automatic mode's settings beside {AUTOMATIC}",
    )
    p.add_argument("--m2m", action="store_true", help="measure automatic mode with use_m2m as well")
    p.add_argument(
        "--sheet",
        type=Path,
        help="write a PNG: picture, truth, point, box, automatic mode (first 8 scenes, 3 photographs)",
    )
    p.add_argument("--no-postprocessing", action="store_true", help="as build_sam2(apply_postprocessing=False)")
    p.add_argument("--json", type=Path, help="write the figures")
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


@torch.inference_mode()
def main() -> None:
    """Measure, print, draw."""
    args = parse()
    torch.set_num_threads(args.threads)
    model = load(args.config, args.weights, not args.no_postprocessing)
    predictor = fit_sizes(SAM2ImagePredictor(model))
    settings = AUTOMATIC | {name: json.loads(value) for name, value in (item.split("=") for item in args.set)}
    generators = {"automatic": SAM2AutomaticMaskGenerator(model, **settings)}
    if args.m2m:
        generators["automatic, use_m2m"] = SAM2AutomaticMaskGenerator(model, **settings, use_m2m=True)
    for generator in generators.values():
        fit_sizes(generator.predictor)
    held_out = emoji_split(args.emoji)[1]
    figures, rows = Figures(), []
    for index in range(args.scenes):
        made = scene(args.seed + index, SIZE, held_out, STYLES[args.style])
        predictor.set_image(made.image)
        found = measure_prompts(predictor, made, random.Random(args.seed + index), figures)
        drawn = args.sheet and index < 8
        for name, generator in generators.items():
            if index >= args.automatic and not (drawn and name == "automatic"):
                continue
            masks = segment_all(generator, made.image)
            found.setdefault("automatic", masks)
            if index < args.automatic:
                best = iou(made.masks, masks).max(1) if len(masks) else np.zeros(len(made.masks))
                figures.add(f"{name}: objects found at IoU >= 0.5", best >= 0.5)
                figures.add(f"{name}: objects found at IoU >= 0.75", best >= 0.75)
                figures.add(f"{name}: masks per picture", len(masks))
                figures.add(f"{name}: objects per picture", len(made.masks))
        if drawn:
            rows.append(
                sheet_row(
                    [
                        made.image,
                        *(paint(made.image, m) for m in (made.masks, found["point"], found["box"], found["automatic"])),
                    ]
                )
            )
        if (index + 1) % 20 == 0:
            print(f"... {index + 1} of {args.scenes} scenes", flush=True)

    print(
        f"{args.weights.name}, {args.style} style, {args.scenes} scenes from seed {args.seed}, "
        f"{len(figures.values['box'])} objects"
    )
    if args.automatic:
        print(f"automatic mode on {args.automatic} scenes, {settings}")
    for name, value in figures.summary().items():
        print(f"  {name}: {value:.3f}")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"style": args.style, "scenes": args.scenes, "automatic": settings} | figures.summary(),
                indent=2,
            )
        )
    if args.sheet:
        for name, photo in photographs():
            masks = segment_all(generators["automatic"], photo)
            print(f"  {name}: {len(masks)} masks")
            rows.append(sheet_row([photo, paint(photo, masks)] + [np.full_like(photo, 255)] * 3))
        cv2.imwrite(str(args.sheet), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    main()
