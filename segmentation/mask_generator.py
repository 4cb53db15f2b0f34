"""Automatic mode: the masks of SAM2AutomaticMaskGenerator, several times faster, with progress, a way to stop, and less memory.

The same points, thresholds and suppression as sam2 1.1.0, and so the same masks up to float rounding. What differs:

- Points are decoded by :class:`.mask_decoder.PointDecoder` on a CPU, in small batches that stay in its cache.
- A mask below the predicted IoU is dropped before it is made, or on a GPU before it is looked at.
- Nothing is dropped for good: a later search of the same image that decodes nothing else begins with what is known
  (:class:`.kept_searches.Candidates`), and so gives the masks that it would have found by itself.
- On a CPU no mask is ever brought to the size of the image: :class:`.run_lengths.UpscaledMask` measures and encodes it. A GPU
  measures masks at that size, a few at once, and only those that are left at the end are encoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops.boxes import batched_nms, box_area

from .crops import Crop
from .image_predictor import ImagePredictor
from .kept_searches import Candidates, KeptSearches, Search
from .masks import RLE, Masks, decode, encode
from .memory import BatchSize, in_batches
from .messages import needs_opencv
from .progress import Progress
from .sam2_package import (
    MaskData,
    batched_mask_to_box,
    build_point_grid,
    generate_crop_boxes,
    remove_small_regions,
)
from .search import AutomaticSettings

#: How much is decoded at once on a CPU, whatever points_per_batch says: numbers in the image embedding, one for each point, and
#: points. Larger batches fall out of the processor's cache (sam2's own decoder takes 185 ms a point at 64 points, 81 ms at 2,
#: sam2_hiera_tiny on two AVX2 cores), much smaller ones are all overhead. The masks are the same.
CPU_EMBEDDING_PER_BATCH = 1 << 22
CPU_POINTS_PER_BATCH = 16


class MaskGenerator:
    """Masks for everything in an image.

    Args:
        predictor: embeds crops of the image and decodes points on them.
        settings: what to look for.
        kept: earlier searches with this model; None: there are none.

    Raises:
        ValueError: settings that contradict one another.
        ImportError: min_mask_region_area above 0 where OpenCV is not installed.
    """

    def __init__(
        self, predictor: ImagePredictor, settings: AutomaticSettings, kept: KeptSearches | None = None
    ) -> None:
        settings.check()
        if settings.min_mask_region_area > 0:
            _check_opencv(settings.min_mask_region_area)
        self._kept = KeptSearches() if kept is None else kept
        self.predictor = predictor
        self.settings = settings
        self._grids = settings.point_grids or [
            build_point_grid(settings.points_of_side(layer)) for layer in range(settings.crop_n_layers + 1)
        ]
        at_once = settings.points_per_batch
        if predictor.device.type == "cpu":
            height, width = predictor.embedding_hw
            in_cache = CPU_EMBEDDING_PER_BATCH // (height * width * predictor.model.hidden_dim)
            at_once = min(at_once, CPU_POINTS_PER_BATCH, max(in_cache, 1))
        self._planned = at_once
        self._size = BatchSize(at_once)  # less where a GPU's memory runs out

    @torch.inference_mode()
    def generate(self, image: npt.NDArray[np.uint8], progress: Progress | None = None) -> Masks:
        """Masks of everything found, in the order in which sam2 gives them.

        Args:
            image: (H, W, 3) uint8 RGB.
            progress: is told of each batch of points that has to be decoded, before the first and after each, and once more
                before each mask of which small regions are removed.
        """
        image_hw, settings = image.shape[:2], self.settings
        boxes = zip(*generate_crop_boxes(image_hw, settings.crop_n_layers, settings.crop_overlap_ratio), strict=True)
        # Crops of a tiny image can be empty.
        crops = [(box, self._grids[layer]) for box, layer in boxes if box[2] > box[0] and box[3] > box[1]]
        search = self._kept.get(
            (self.predictor.key(image), *settings.without_filters()),
            lambda: Search([Candidates(len(grid) * settings.masks_per_point) for _, grid in crops]),
        )
        depth = search.depth(settings.pred_iou_thresh)
        batches = [self._missing(found, depth) for found in search.crops]
        total = sum(map(len, batches))
        done = 0
        data = MaskData()
        if progress and total:
            progress(0, total)
        for (box, grid), found, missing in zip(crops, search.crops, batches, strict=True):
            crop = Crop(self.predictor, settings, self._size, image, box, grid, found)
            for batch in missing:
                self._decode(crop, batch, depth)
                done += 1
                if progress:
                    progress(done, total)
            left = self._left(crop)
            if len(left["rles"]):  # sam2's own code fails where no crop finds anything
                data.cat(left)
            self._kept.make_room(search, found)
        search.made_down_to = min(search.made_down_to, depth)

        def goes_on() -> None:
            if progress:
                progress(total, total)

        return self._finish(data, image_hw, len(crops), goes_on)

    def _missing(self, found: Candidates, iou_above: float) -> list[range]:
        """The batches of points of a crop that have to be decoded for masks of a higher predicted IoU.

        They are the batches of the first search, whole: in another one the same point is rounded otherwise.
        """
        per_point = self.settings.masks_per_point
        missing = found.missing(iou_above)
        batches = enumerate(missing.split(self._planned * per_point))
        return [
            range(k * self._planned, k * self._planned + len(of_batch) // per_point)
            for k, of_batch in batches
            if of_batch.any()
        ]

    def _decode(self, crop: Crop, batch: range, iou_above: float) -> None:
        def decode(places: range) -> None:
            crop.decode(places, iou_above)

        for _ in in_batches(batch, self._size, decode, crop.make_room, "point"):
            pass

    def _left(self, crop: Crop) -> MaskData:
        """What is left of a crop's masks without those that do not pass and duplicates, the best first."""
        settings, found = self.settings, crop.found
        passing = found.passing(settings.pred_iou_thresh, settings.stability_score_thresh)
        places = torch.nonzero(passing)[:, 0]
        data = MaskData(places=places, boxes=found.boxes[places], iou_preds=found.ious[places])
        data.filter(self._nms(data, data["iou_preds"], settings.box_nms_thresh))
        places = data["places"]
        gone = crop.encode(places.tolist())
        if gone:
            found.made[gone] = False
            for batch in self._missing(found, settings.pred_iou_thresh):
                self._decode(crop, batch, settings.pred_iou_thresh)
            return self._left(crop)
        return MaskData(
            boxes=data["boxes"],
            iou_preds=data["iou_preds"],
            stability_score=found.stability[places],
            crop_boxes=torch.tensor([crop.box] * len(places)).reshape(-1, 4),
            rles=[RLE(size=list(crop.image_hw), counts=found.counts[place]) for place in places.tolist()],
        )

    def _finish(self, data: MaskData, image_hw: tuple[int, int], crops: int, goes_on: Callable[[], None]) -> Masks:
        """Drop duplicates between crops, and small regions."""
        if not dict(data.items()):
            empty = np.zeros(0, np.float32)
            return Masks(image_hw, [], empty, empty)
        if crops > 1:
            # Smaller crops see their objects larger: their masks win.
            area_of_crop = box_area(data["crop_boxes"].to(data["boxes"])).float()  # not torch's default dtype
            data.filter(self._nms(data, 1 / area_of_crop, self.settings.crop_nms_thresh))
        if self.settings.min_mask_region_area > 0:
            self._remove_small_regions(data, goes_on)
        return Masks(
            image_hw,
            data["rles"],
            data["iou_preds"].float().cpu().numpy(),
            data["stability_score"].float().cpu().numpy(),
        )

    def _remove_small_regions(self, data: MaskData, goes_on: Callable[[], None]) -> None:
        """Fill small holes, drop small islands, then suppress again: masks may have become duplicates.

        As SAM2AutomaticMaskGenerator.postprocess_small_regions does (which sam2 itself never calls), on compressed masks.
        """
        least = self.settings.min_mask_region_area
        rles, boxes, unchanged = [], data["boxes"].clone(), []
        for k, rle in enumerate(data["rles"]):
            goes_on()
            mask = decode(rle)
            around = _neighbourhood(boxes[k].long().tolist(), mask.shape, least)
            part, filled = remove_small_regions(mask[around], least, mode="holes")
            part, dropped = remove_small_regions(part, least, mode="islands")
            unchanged.append(float(not (filled or dropped)))
            if filled or dropped:
                mask[around] = part
                rle, boxes[k] = encode(mask), batched_mask_to_box(torch.from_numpy(mask)[None])[0]
            rles.append(rle)
        data["rles"], data["boxes"] = rles, boxes
        scores = torch.tensor(unchanged, dtype=torch.float32, device=data["boxes"].device)
        data.filter(self._nms(data, scores, max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)))

    def _nms(self, data: MaskData, scores: Tensor, threshold: float) -> Tensor:
        """Places of the masks that stay when, of overlapping boxes, the one with the best score does."""
        boxes = data["boxes"].float().to(self.predictor.device)
        same = torch.zeros_like(boxes[:, 0])
        return batched_nms(boxes, scores.to(boxes.device), same, iou_threshold=threshold).cpu()


def _neighbourhood(box: list[int], image_hw: tuple[int, ...], area: int) -> tuple[slice, slice]:
    """Rows and columns around a mask in which its regions of less than `area` pixels are the same as in the whole image.

    Args:
        box: xyxy of the mask, with the last row and column.
    """
    margin = math.isqrt(area) + 1
    height, width = image_hw
    left, top, right, bottom = box[0] - margin, box[1] - margin, box[2] + 1 + margin, box[3] + 1 + margin
    # What lies around the mask has to be one region, and large: beyond a corner there are margin x margin pixels of it.
    if (left <= 0 and right >= width) or (top <= 0 and bottom >= height):
        return slice(None), slice(None)
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def _check_opencv(area: int) -> None:
    """ImportError before the search, and not after it, where sam2 cannot remove small regions."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ImportError(needs_opencv("min_mask_region_area", area)) from error
