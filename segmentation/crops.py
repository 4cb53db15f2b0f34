"""One crop of an image at work: grid points in, measured and encoded masks out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco
from torch import Tensor

from .image_predictor import ImagePredictor
from .mask_decoder import MASK_INPUT_LIMIT, PointDecoder
from .memory import BatchSize
from .run_lengths import UpscaledMask, area, to_rle
from .sam2_package import MaskData, batched_mask_to_box, is_box_near_crop_edge
from .search import AutomaticSettings

#: Pixels of masks that a GPU measures at once; each takes some 6 bytes there meanwhile.
GPU_PIXELS_AT_ONCE = 1 << 26


class Crop:
    """A part of an image that is searched by itself.

    Args:
        predictor: embeds the crop.
        settings: what to look for.
        size: how many points are decoded at once.
        image: (H, W, 3) uint8 RGB, the whole.
        box: x0, y0, x1, y1 of the crop in pixels of the image.
    """

    def __init__(
        self,
        predictor: ImagePredictor,
        settings: AutomaticSettings,
        size: BatchSize,
        image: npt.NDArray[np.uint8],
        box: Sequence[int],
    ) -> None:
        x0, y0, x1, y1 = box
        self.box = list(box)
        self.wh = np.array([x1 - x0, y1 - y0])
        self._hw = (y1 - y0, x1 - x0)
        self._image_hw = image.shape[:2]
        self._settings = settings
        self._size = size
        self._predictor = predictor
        self._embedding = predictor.embed(image[y0:y1, x0:x1])
        # A GPU takes microseconds for the pixels of a mask, its processor a millisecond for the run lengths.
        self._measures_pixels = predictor.device.type != "cpu"
        self._decoder: PointDecoder | None = None
        if predictor.device.type == "cpu" and PointDecoder.fits(predictor.model):
            self._decoder = PointDecoder(predictor.model, self._embedding.image_embed, self._embedding.high_res_feats)

    def make_room(self) -> None:
        """Free the embeddings of all other images."""
        self._predictor.forget_images(self._embedding)

    def decode(self, points: npt.NDArray[np.float64]) -> MaskData:
        """The masks of points (N, 2), xy in pixels of the crop, that pass the thresholds.

        Returns:
            boxes (K, 4) in pixels of the crop, iou_preds (K,), stability_score (K,), and rles in the image's size or, where
            pixels are measured, logits (see :meth:`encode_rest`).
        """
        settings = self._settings
        coords = torch.as_tensor(points, dtype=torch.float32, device=self._predictor.device)
        coords = self._predictor.to_model(coords, self._hw)
        least = settings.pred_iou_thresh if settings.pred_iou_thresh > 0 else None
        if settings.use_m2m:  # refines all masks, then filters: which ones pass is known only after
            at_once = self._size.at_once
            logits, _ = self._logits(coords, settings.multimask_output)
            coords = coords.repeat_interleave(len(logits) // len(coords), dim=0)
            mask_input = logits[:, None].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
            refined = [
                self._logits(some, False, mask, least)
                for some, mask in zip(coords.split(at_once), mask_input.split(at_once), strict=True)
            ]
            logits, ious = (torch.cat(parts) for parts in zip(*refined, strict=True))
        else:
            logits, ious = self._logits(coords, settings.multimask_output, None, least)
        if self._measures_pixels:
            return self._measure_pixels(logits, ious)
        return self._measure(logits.float().cpu().numpy(), ious.float().cpu())

    def encode_rest(self, data: MaskData) -> None:
        """Run lengths in place of logits, and everything on the CPU, where pixels were measured."""
        if not self._measures_pixels:
            return
        logits = data["logits"].float().cpu().numpy()
        del data["logits"]
        for name in ("boxes", "iou_preds", "stability_score"):
            data[name] = data[name].cpu()
        threshold = self._settings.mask_threshold
        masks = (UpscaledMask(of_mask, self._hw, threshold) for of_mask in logits)
        data["rles"] = [
            to_rle(mask.flips(threshold, self._corner, self._image_hw[0]), self._image_hw) for mask in masks
        ]

    @property
    def _corner(self) -> tuple[int, int]:
        return self.box[0], self.box[1]

    @property
    def _stability_cuts(self) -> tuple[float, float]:
        """The lower and the higher threshold whose masks are compared for stability."""
        threshold, offset = self._settings.mask_threshold, self._settings.stability_score_offset
        return threshold - offset, threshold + offset

    def _logits(
        self,
        coords: Tensor,
        multimask_output: bool,
        mask_input: Tensor | None = None,
        iou_above: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (K, h, w) and predicted IoUs (K,) of the masks of points (N, 2), those above `iou_above` if it is given."""
        if self._decoder is not None:
            return self._decoder.decode(
                coords, multimask_output=multimask_output, mask_input=mask_input, iou_above=iou_above
            )
        labels = torch.ones(len(coords), 1, dtype=torch.int, device=coords.device)
        logits, ious = self._predictor.decode(
            self._embedding, coords[:, None], labels, mask_input=mask_input, multimask_output=multimask_output
        )
        logits, ious = logits.flatten(0, 1), ious.flatten(0, 1)
        if iou_above is None:
            return logits, ious
        keep = ious > iou_above  # in the precision of the ious, as sam2 compares
        return logits[keep], ious[keep]

    def _measure(self, logits: npt.NDArray[np.float32], ious: Tensor) -> MaskData:
        """Stability, box and run-length encoding of logits (K, h, w), at the size of the crop; unstable ones dropped."""
        settings = self._settings
        x0, y0 = self._corner
        low, high = self._stability_cuts
        kept, stability, boxes, rles = [], [], [], []
        for i, of_mask in enumerate(logits):
            mask = UpscaledMask(of_mask, self._hw, low)
            # As calculate_stability_score: of an empty mask it is not a number, which no threshold lets pass.
            union = area(mask.flips(low))
            score = area(mask.flips(high)) / union if union else np.nan
            if settings.stability_score_thresh > 0 and not score >= settings.stability_score_thresh:
                continue
            rle = to_rle(mask.flips(settings.mask_threshold, (x0, y0), self._image_hw[0]), self._image_hw)
            x, y, width, height = coco.toBbox(rle)
            kept.append(i)
            stability.append(score)
            rles.append(rle)
            # As batched_mask_to_box: the last pixel belongs to the box, and that of an empty mask is zero.
            boxes.append([x - x0, y - y0, x - x0 + width - 1, y - y0 + height - 1] if width else [0, 0, 0, 0])
        data = MaskData(
            boxes=torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4),
            iou_preds=ious[kept],
            stability_score=torch.tensor(stability, dtype=torch.float32),
            rles=rles,
        )
        data.filter(~self._near_its_edge(data))
        return data

    def _measure_pixels(self, logits: Tensor, ious: Tensor) -> MaskData:
        """Stability and box of logits (K, h, w) on a GPU; those that pass, not encoded yet."""
        low, high = self._stability_cuts
        stability, boxes = [logits.new_zeros(0, dtype=torch.float32)], [logits.new_zeros(0, 4, dtype=torch.int64)]
        at_once = max(GPU_PIXELS_AT_ONCE // (self._hw[0] * self._hw[1]), 1)
        for some in logits.split(at_once):
            masks = self._predictor.upscale(some[:, None], self._hw)[:, 0]
            stability.append((masks > high).sum((1, 2)).float() / (masks > low).sum((1, 2)).float())
            boxes.append(batched_mask_to_box(masks > self._settings.mask_threshold))
        data = MaskData(boxes=torch.cat(boxes), iou_preds=ious, stability_score=torch.cat(stability), logits=logits)
        keep = ~self._near_its_edge(data)
        if self._settings.stability_score_thresh > 0:
            keep &= data["stability_score"] >= self._settings.stability_score_thresh
        data.filter(keep)
        return data

    def _near_its_edge(self, data: MaskData) -> Tensor:
        """Which masks touch an edge of the crop that is no edge of the image: cut off there, they belong to another crop."""
        height, width = self._image_hw
        return is_box_near_crop_edge(data["boxes"], self.box, [0, 0, width, height])
