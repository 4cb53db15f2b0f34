"""Automatic mode: the masks of SAM2AutomaticMaskGenerator, several times faster, with progress, a way to stop, and less memory.

The same points, thresholds and suppression as sam2 1.1.0, and so the same masks up to float rounding. What differs:

- Points are decoded by :class:`.mask_decoder.PointDecoder` on a CPU, in small batches that stay in its cache.
- A mask below the predicted IoU is dropped before it is made, or on a GPU before it is looked at.
- On a CPU no mask is ever brought to the size of the image: :class:`.run_lengths.UpscaledMask` measures and encodes it. A GPU
  measures masks at that size, a few at once, and only those that are left at the end are encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco

from .mask_decoder import MASK_INPUT_LIMIT, PointDecoder
from .masks import Masks, decode, encode
from .memory import GPUMemoryError
from .model_loader import sam2_imports, without_deprecations
from .run_lengths import UpscaledMask, area, to_rle

with sam2_imports():
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from sam2.sam2_image_predictor import SAM2ImagePredictor
    from sam2.utils.amg import (
        MaskData,
        batch_iterator,
        batched_mask_to_box,
        build_point_grid,
        generate_crop_boxes,
        is_box_near_crop_edge,
        remove_small_regions,
        uncrop_boxes_xyxy,
    )
from torchvision.ops.boxes import batched_nms, box_area

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the batches done and the batches in all, before the first and after each. What it raises ends the run."""

#: How much is decoded at once on a CPU, whatever points_per_batch says: numbers in the image embedding, one for each point, and
#: points. Larger batches fall out of the processor's cache (sam2's own decoder takes 185 ms a point at 64 points, 81 ms at 2,
#: sam2_hiera_tiny on two AVX2 cores), much smaller ones are all overhead. The masks are the same.
CPU_EMBEDDING_PER_BATCH = 1 << 22
CPU_POINTS_PER_BATCH = 16

#: Pixels of masks that a GPU measures at once; each takes some 6 bytes there meanwhile.
GPU_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class AutomaticSettings:
    """What automatic mode looks for; names, meaning and defaults are SAM2AutomaticMaskGenerator's.

    `point_grids` holds one (N, 2) array in [0, 1] per crop layer and replaces `points_per_side`. `min_mask_region_area` is in
    pixels of the image, as in the first SAM: holes and islands that are smaller are removed.
    """

    points_per_side: int | None = 32
    point_grids: list[npt.NDArray[np.float64]] | None = None
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True

    def grids(self) -> list[npt.NDArray[np.float64]]:
        """One (N, 2) grid of points in [0, 1] per crop layer.

        Raises:
            ValueError: neither or both of points_per_side and point_grids, or not one grid for each layer.
        """
        layers = self.crop_n_layers + 1
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ValueError(
                "points_per_side, point_grids: accepted is a number of points per side, or points_per_side = None together "
                "with point_grids."
            )
        if self.point_grids is None:
            # A factor that leaves no point in a deep layer would divide by zero inside sam2; one point stays.
            sides = (self.points_per_side // self.crop_n_points_downscale_factor**i for i in range(layers))
            return [build_point_grid(max(side, 1)) for side in sides]
        if len(self.point_grids) != layers:
            raise ValueError(
                f"point_grids: {len(self.point_grids)} grid(s) for {layers} layer(s); accepted is one grid for the image "
                f"and one for each of crop_n_layers = {self.crop_n_layers}."
            )
        return self.point_grids


class MaskGenerator(SAM2AutomaticMaskGenerator):
    """Masks for everything in an image.

    Args:
        predictor: sets the images and decodes points; its masks come at the decoder's resolution
            (:class:`.segmenter.ImagePredictor`).
        settings: what to look for.
    """

    def __init__(self, predictor: SAM2ImagePredictor, settings: AutomaticSettings) -> None:
        names = {name: value for name, value in vars(settings).items() if name != "min_mask_region_area"}
        grids = settings.grids()
        # min_mask_region_area stays 0 inside sam2: there it needs a CUDA extension and works on low-resolution masks.
        with without_deprecations():
            super().__init__(predictor.model, **(names | {"points_per_side": None, "point_grids": grids}))
        self.predictor = predictor
        self.settings = settings
        # A GPU takes microseconds for the pixels of a mask, its processor a millisecond for the run lengths.
        self._measures_pixels = predictor.device.type != "cpu"
        if predictor.device.type == "cpu":
            height, width = predictor._bb_feat_sizes[-1]
            in_cache = CPU_EMBEDDING_PER_BATCH // (height * width * predictor.model.hidden_dim)
            self.points_per_batch = min(self.points_per_batch, CPU_POINTS_PER_BATCH, max(in_cache, 1))

    @torch.inference_mode()
    def masks_of(self, image: npt.NDArray[np.uint8], progress: Progress | None = None) -> Masks:
        """Masks of everything found, in the order in which sam2 gives them.

        Args:
            image: (H, W, 3) uint8 RGB.
            progress: is told of each batch of points.
        """
        image_hw = image.shape[:2]
        crops = [
            (box, layer)
            for box, layer in zip(
                *generate_crop_boxes(image_hw, self.crop_n_layers, self.crop_overlap_ratio), strict=True
            )
            if box[2] > box[0] and box[3] > box[1]  # crops of a tiny image can be empty
        ]
        total = sum(-(-len(self.point_grids[layer]) // self.points_per_batch) for _, layer in crops)
        self._done, self._report = 0, lambda done: progress(done, total) if progress else None
        self._report(0)

        data = MaskData()
        for crop_box, layer in crops:
            found = self._process_crop(image, crop_box, layer, image_hw)
            if len(found["rles"]):  # sam2's own code fails where no crop finds anything
                data.cat(found)
        if not dict(data.items()):
            empty = np.zeros(0, np.float32)
            return Masks(image_hw, [], empty, empty)
        if len(crops) > 1:
            # Smaller crops see their objects larger: their masks win.
            area_of_crop = box_area(data["crop_boxes"].to(data["boxes"])).float()  # not torch's default dtype
            data.filter(self._nms(data, 1 / area_of_crop, self.crop_nms_thresh))
        if self.settings.min_mask_region_area > 0:
            self._remove_small_regions(data)
        return Masks(
            image_hw,
            data["rles"],
            data["iou_preds"].float().cpu().numpy(),
            data["stability_score"].float().cpu().numpy(),
        )

    def _process_crop(self, image, crop_box, crop_layer_idx, orig_size) -> MaskData:
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(image[y0:y1, x0:x1])
        self._decoder = None
        if self.predictor.device.type == "cpu" and PointDecoder.fits(self.predictor.model):
            self._decoder = PointDecoder(self.predictor.model, **self.predictor._features)
        points_for_image = self.point_grids[crop_layer_idx] * np.array([[x1 - x0, y1 - y0]])
        data = MaskData()
        for (points,) in batch_iterator(self.points_per_batch, points_for_image):
            data.cat(self._process_batch(points, (y1 - y0, x1 - x0), crop_box, orig_size, normalize=True))
            self._done += 1
            self._report(self._done)
        data.filter(self._nms(data, data["iou_preds"], self.box_nms_thresh))
        if self._measures_pixels:
            self._encode_rest(data, (y1 - y0, x1 - x0), crop_box, orig_size)
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"])).reshape(-1, 4)
        return data

    def _process_batch(self, points, im_size, crop_box, orig_size, normalize=False) -> MaskData:
        """As sam2's; a GPU without memory for all the points takes half of them at once, here and in later batches."""
        data, done = MaskData(), 0
        while done < len(points):
            part = points[done : done + self.points_per_batch]
            try:
                data.cat(self._process_points(part, im_size, crop_box, orig_size, normalize))
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise GPUMemoryError(", even for one point at a time") from error
            else:
                done += len(part)
                continue
            # Not in the except clause, which still holds what the failed attempt had made.
            self.points_per_batch = len(part) // 2
            self.predictor.forget_other_images()
            logger.warning("The memory of the GPU ran out: %d point(s) at once from here on.", self.points_per_batch)
        return data

    def _process_points(self, points, im_size, crop_box, orig_size, normalize) -> MaskData:
        in_points = self.predictor._transforms.transform_coords(
            torch.as_tensor(points, dtype=torch.float32, device=self.predictor.device), normalize, im_size
        )
        least = self.pred_iou_thresh if self.pred_iou_thresh > 0 else None
        if self.use_m2m:  # refines all masks, then filters: which ones pass is known only after
            logits, _ = self._decode(in_points, self.multimask_output)
            in_points = in_points.repeat_interleave(len(logits) // len(in_points), dim=0)
            mask_input = logits[:, None].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
            refined = [
                self._decode(p, False, m, least)
                for p, m in batch_iterator(self.points_per_batch, in_points, mask_input)
            ]
            logits, iou_preds = (torch.cat(parts) for parts in zip(*refined, strict=True))
        else:
            logits, iou_preds = self._decode(in_points, self.multimask_output, None, least)
        if self._measures_pixels:
            return self._measure_pixels(logits, iou_preds, im_size, crop_box, orig_size)
        return self._measure(logits.float().cpu().numpy(), iou_preds.float().cpu(), im_size, crop_box, orig_size)

    def _decode(self, in_points, multimask_output, mask_input=None, iou_above=None):
        """Logits (K, h, w) and predicted IoUs (K,) of the masks of points (N, 2), those above `iou_above` if it is given."""
        if self._decoder is not None:
            return self._decoder.decode(
                in_points, multimask_output=multimask_output, mask_input=mask_input, iou_above=iou_above
            )
        labels = torch.ones(len(in_points), 1, dtype=torch.int, device=in_points.device)
        logits, ious, _ = self.predictor._predict(
            in_points[:, None], labels, mask_input=mask_input, multimask_output=multimask_output, return_logits=True
        )
        logits, ious = logits.flatten(0, 1), ious.flatten(0, 1)
        if iou_above is None:
            return logits, ious
        keep = ious > iou_above  # in the precision of the ious, as sam2 compares
        return logits[keep], ious[keep]

    def _measure(self, logits, iou_preds, im_size, crop_box, orig_size) -> MaskData:
        """Stability, box and run-length encoding of logits (K, h, w) numpy, at the size of the crop; unstable ones dropped."""
        x0, y0 = crop_box[:2]
        kept, stability, boxes, rles = [], [], [], []
        low, high = (self.mask_threshold + side * self.stability_score_offset for side in (-1, 1))
        for i, of_mask in enumerate(logits):
            mask = UpscaledMask(of_mask, im_size, low)
            # As calculate_stability_score: of an empty mask it is not a number, which no threshold lets pass.
            union = area(mask.flips(low))
            score = area(mask.flips(high)) / union if union else np.nan
            if self.stability_score_thresh > 0 and not score >= self.stability_score_thresh:
                continue
            rle = to_rle(mask.flips(self.mask_threshold, (x0, y0), orig_size[0]), orig_size)
            x, y, width, height = coco.toBbox(rle)
            kept.append(i)
            stability.append(score)
            rles.append(rle)
            # As batched_mask_to_box: the last pixel belongs to the box, and that of an empty mask is zero.
            boxes.append([x - x0, y - y0, x - x0 + width - 1, y - y0 + height - 1] if width else [0, 0, 0, 0])
        data = MaskData(
            boxes=torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4),
            iou_preds=iou_preds[kept],
            stability_score=torch.tensor(stability, dtype=torch.float32),
            rles=rles,
        )
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, orig_size[1], orig_size[0]]))
        return data

    def _measure_pixels(self, logits, iou_preds, im_size, crop_box, orig_size) -> MaskData:
        """Stability and box of logits (K, h, w) on a GPU; those that pass, not encoded yet."""
        low, high = (self.mask_threshold + side * self.stability_score_offset for side in (-1, 1))
        stability, boxes = [logits.new_zeros(0, dtype=torch.float32)], [logits.new_zeros(0, 4, dtype=torch.int64)]
        at_once = max(GPU_PIXELS_AT_ONCE // (im_size[0] * im_size[1]), 1)
        for start in range(0, len(logits), at_once):
            masks = self.predictor.upscale(logits[start : start + at_once, None], im_size)[:, 0]
            stability.append((masks > high).sum((1, 2)).float() / (masks > low).sum((1, 2)).float())
            boxes.append(batched_mask_to_box(masks > self.mask_threshold))
        data = MaskData(
            boxes=torch.cat(boxes), iou_preds=iou_preds, stability_score=torch.cat(stability), logits=logits
        )
        keep = ~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, orig_size[1], orig_size[0]])
        if self.stability_score_thresh > 0:
            keep &= data["stability_score"] >= self.stability_score_thresh
        data.filter(keep)
        return data

    def _encode_rest(self, data: MaskData, im_size, crop_box, orig_size) -> None:
        """Run lengths in place of logits, and everything on the CPU."""
        logits = data["logits"].float().cpu().numpy()
        del data["logits"]
        for name in ("boxes", "iou_preds", "stability_score"):
            data[name] = data[name].cpu()
        masks = (UpscaledMask(of_mask, im_size, self.mask_threshold) for of_mask in logits)
        data["rles"] = [
            to_rle(mask.flips(self.mask_threshold, crop_box[:2], orig_size[0]), orig_size) for mask in masks
        ]

    @staticmethod
    def _nms(data: MaskData, scores: torch.Tensor, threshold: float) -> torch.Tensor:
        """Places of the masks that stay when, of overlapping boxes, the one with the best score does."""
        boxes = data["boxes"].float()
        return batched_nms(boxes, scores, torch.zeros_like(boxes[:, 0]), iou_threshold=threshold)

    def _remove_small_regions(self, data: MaskData) -> None:
        """Fill small holes, drop small islands, then suppress again: masks may have become duplicates.

        As SAM2AutomaticMaskGenerator.postprocess_small_regions does (which sam2 itself never calls), on compressed masks.
        """
        rles, boxes, unchanged = [], [], []
        for rle in data["rles"]:
            mask, filled = remove_small_regions(decode(rle), self.settings.min_mask_region_area, mode="holes")
            mask, dropped = remove_small_regions(mask, self.settings.min_mask_region_area, mode="islands")
            changed = filled or dropped
            unchanged.append(float(not changed))
            rles.append(encode(mask) if changed else rle)
            boxes.append(batched_mask_to_box(torch.as_tensor(np.ascontiguousarray(mask))[None])[0])
        data["rles"], data["boxes"] = rles, torch.stack(boxes).to(data["boxes"].device)
        scores = torch.tensor(unchanged, dtype=torch.float32, device=data["boxes"].device)
        data.filter(self._nms(data, scores, max(self.box_nms_thresh, self.crop_nms_thresh)))
