"""One crop of an image at work: grid points in, measured and encoded masks out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco
from torch import Tensor

from .image_predictor import Embedding, ImagePredictor
from .kept_searches import Candidates, Measured
from .mask_decoder import MASK_INPUT_LIMIT, Decoded, PointDecoder, passes
from .memory import BatchSize
from .run_lengths import UpscaledMask, area, to_rle
from .sam2_package import batched_mask_to_box, is_box_near_crop_edge, uncrop_boxes_xyxy
from .search import AutomaticSettings

#: Pixels of masks that a GPU measures at once; each takes some 6 bytes there meanwhile.
GPU_PIXELS_AT_ONCE = 1 << 26


class Crop:
    """A part of an image that is searched by itself. It is embedded when its first points are decoded.

    Args:
        predictor: embeds the crop.
        settings: what to look for.
        size: how many points are decoded at once.
        image: (H, W, 3) uint8 RGB, the whole.
        box: x0, y0, x1, y1 of the crop in pixels of the image.
        grid: (N, 2) points, xy from 0 to 1.
        found: is told what these points give.
    """

    def __init__(
        self,
        predictor: ImagePredictor,
        settings: AutomaticSettings,
        size: BatchSize,
        image: npt.NDArray[np.uint8],
        box: Sequence[int],
        grid: npt.NDArray[np.float64],
        found: Candidates,
    ) -> None:
        x0, y0, x1, y1 = box
        self.box = list(box)
        self.found = found
        self._hw = (y1 - y0, x1 - x0)
        self._points = grid * np.array([x1 - x0, y1 - y0])
        self._pixels = image[y0:y1, x0:x1]
        self.image_hw = image.shape[:2]
        self._settings = settings
        self._size = size
        self._predictor = predictor
        # A GPU takes microseconds for the pixels of a mask, its processor a millisecond for the run lengths: there the logits
        # of masks that pass wait until it is known which ones are left.
        self._measures_pixels = predictor.device.type != "cpu"
        self._waiting: dict[int, Tensor] = {}

    @cached_property
    def _embedding(self) -> Embedding:
        return self._predictor.embed(self._pixels)

    @cached_property
    def _decoder(self) -> PointDecoder | None:
        predictor, embedding = self._predictor, self._embedding
        if predictor.device.type != "cpu" or not PointDecoder.fits(predictor.model):
            return None
        return PointDecoder(predictor.model, embedding.image_embed, embedding.high_res_feats)

    def make_room(self) -> None:
        """Free the embeddings of all other images."""
        self._predictor.forget_images(self._embedding)

    def decode(self, places: range, iou_above: float) -> None:
        """Make the masks of some points that are not made yet and have a higher predicted IoU, and note what they are."""
        settings, found = self._settings, self.found
        points = self._points[places.start : places.stop]
        per_point = settings.masks_per_point
        first = places.start * per_point
        coords = torch.as_tensor(points, dtype=torch.float32, device=self._predictor.device)
        decoded = self._decode(
            self._predictor.to_model(coords, self._hw),
            iou_above,
            found.made[first : places.stop * per_point].to(coords.device),
        )
        made = first + decoded.made.cpu()
        if self._measures_pixels:
            found.note(decoded.ious.cpu(), first, made, self._measure_pixels(decoded.logits))
            keep = found.passing(settings.pred_iou_thresh, settings.stability_score_thresh)[made]
            self._waiting.update(zip(made[keep].tolist(), decoded.logits[keep.to(coords.device)], strict=True))
        else:
            found.note(decoded.ious.cpu(), first, made, self._measure(decoded.logits.float().cpu().numpy()))

    def encode(self, numbers: list[int]) -> list[int]:
        """Run lengths of masks that have none yet, where pixels were measured.

        Returns:
            Those of `numbers` whose logits are gone: they were made before, when nobody needed them.
        """
        missing = [number for number in numbers if number not in self.found.counts]
        here = [number for number in missing if number in self._waiting]
        if here:
            logits = torch.stack([self._waiting[number] for number in here]).float().cpu().numpy()
            self.found.encoded(here, [self._encoded(self._upscaled(of_mask)) for of_mask in logits])
        return [number for number in missing if number not in self._waiting]

    @property
    def _corner(self) -> tuple[int, int]:
        return self.box[0], self.box[1]

    @property
    def _stability_cuts(self) -> tuple[float, float]:
        """The lower and the higher threshold whose masks are compared for stability."""
        threshold, offset = self._settings.mask_threshold, self._settings.stability_score_offset
        return threshold - offset, threshold + offset

    def _decode(self, coords: Tensor, iou_above: float, skip: Tensor) -> Decoded:
        """The masks of points (N, 2) in pixels of the model's input, refined where that is asked for."""
        settings = self._settings
        if not settings.use_m2m:
            return self._logits(coords, settings.multimask_output, None, iou_above, skip)
        # All masks are refined: which ones pass is known only after.
        first = self._logits(coords, settings.multimask_output)
        coords = coords.repeat_interleave(len(first.logits) // len(coords), dim=0)
        mask_input = first.logits[:, None].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
        at_once = self._size.at_once
        parts = zip(coords.split(at_once), mask_input.split(at_once), skip.split(at_once), strict=True)
        refined = [self._logits(some, False, mask, iou_above, of_these) for some, mask, of_these in parts]
        logits, made, ious = zip(*refined, strict=True)
        starts = range(0, len(coords), at_once)
        return Decoded(
            torch.cat(logits),
            torch.cat([start + of_part for start, of_part in zip(starts, made, strict=True)]),
            torch.cat(ious),
        )

    def _logits(
        self,
        coords: Tensor,
        multimask_output: bool,
        mask_input: Tensor | None = None,
        iou_above: float = 0.0,
        skip: Tensor | None = None,
    ) -> Decoded:
        """The masks of points (N, 2) whose predicted IoU passes, but for those to `skip` (N C,) bool."""
        if self._decoder is not None:
            return self._decoder.decode(
                coords, multimask_output=multimask_output, mask_input=mask_input, iou_above=iou_above, skip=skip
            )
        labels = torch.ones(len(coords), 1, dtype=torch.int, device=coords.device)
        logits, ious = self._predictor.decode(
            self._embedding, coords[:, None], labels, mask_input=mask_input, multimask_output=multimask_output
        )
        logits, ious = logits.flatten(0, 1), ious.flatten(0, 1)
        made = passes(ious, iou_above)
        if skip is not None:
            made &= ~skip
        return Decoded(logits[made], torch.nonzero(made)[:, 0], ious)

    def _upscaled(self, logits: npt.NDArray[np.float32]) -> UpscaledMask:
        return UpscaledMask(logits, self._hw, self._stability_cuts[0])

    def _encoded(self, mask: UpscaledMask) -> bytes:
        """The run lengths of a mask at the size of the image."""
        flips = mask.flips(self._settings.mask_threshold, self._corner, self.image_hw[0])
        return to_rle(flips, self.image_hw)["counts"]

    def _measure(self, logits: npt.NDArray[np.float32]) -> Measured:
        """Stability, box and run-length encoding of logits (K, h, w)."""
        x0, y0 = self._corner
        low, high = self._stability_cuts
        stability, boxes, counts = [], [], []
        for of_mask in logits:
            mask = self._upscaled(of_mask)
            # As calculate_stability_score: of an empty mask it is not a number.
            union = area(mask.flips(low))
            stability.append(area(mask.flips(high)) / union if union else np.nan)
            counts.append(self._encoded(mask))
            x, y, width, height = coco.toBbox({"size": list(self.image_hw), "counts": counts[-1]})
            # As batched_mask_to_box: the last pixel belongs to the box, and that of an empty mask is zero.
            boxes.append([x - x0, y - y0, x - x0 + width - 1, y - y0 + height - 1] if width else [0, 0, 0, 0])
        of_crop = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)
        return self._measured(torch.tensor(stability, dtype=torch.float32), of_crop, counts)

    def _measure_pixels(self, logits: Tensor) -> Measured:
        """Stability and box of logits (K, h, w) on a GPU, not encoded yet."""
        low, high = self._stability_cuts
        stability, boxes = [logits.new_zeros(0, dtype=torch.float32)], [logits.new_zeros(0, 4, dtype=torch.int64)]
        at_once = max(GPU_PIXELS_AT_ONCE // (self._hw[0] * self._hw[1]), 1)
        for some in logits.split(at_once):
            masks = self._predictor.upscale(some[:, None], self._hw)[:, 0]
            stability.append((masks > high).sum((1, 2)).float() / (masks > low).sum((1, 2)).float())
            boxes.append(batched_mask_to_box(masks > self._settings.mask_threshold))
        return self._measured(torch.cat(stability).cpu(), torch.cat(boxes).cpu(), [])

    def _measured(self, stability: Tensor, boxes: Tensor, counts: list[bytes]) -> Measured:
        """What is known of K masks whose boxes (K, 4) are in pixels of the crop."""
        height, width = self.image_hw
        # Masks that touch an edge of the crop that is no edge of the image are cut off there: they belong to another crop.
        cut_off = is_box_near_crop_edge(boxes, self.box, [0, 0, width, height])
        return Measured(stability, uncrop_boxes_xyxy(boxes, self.box), ~cut_off, counts)
