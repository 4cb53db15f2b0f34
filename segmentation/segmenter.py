"""A SAM 2 model at work: an image and a request in, masks out.

>>> from infer_segment_anything_2.segmentation.segmenter import open_segmenter
>>> segmenter = open_segmenter("sam2_hiera_nano")
>>> (masks,) = segmenter.predict(image, [Object(box=[20, 30, 200, 180])])
>>> masks[0], masks.scores[0]
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checkpoints import catalogue_entry, fetch_checkpoint
from .forks import free_in_children
from .image_predictor import ImagePredictor
from .images import resize_percent
from .kept_searches import KeptSearches
from .mask_generator import MaskGenerator
from .masks import MAX_LABELS, RLE, Masks, chosen, empty, encode, ranked
from .memory import BatchSize, in_batches, memory_errors
from .model_loader import load_model, missing_for_video
from .objects import Object, inside, kinds, stacked
from .own_files import own_path
from .progress import Progress
from .request import Request
from .sam2_package import SAM2Base, SeenMasks
from .search import AutomaticSettings
from .surroundings import own_settings
from .threads import steady_threads
from .tracker import Tracker

#: Prompted objects in one call of the mask decoder: each takes some 30 MB there with a released model.
MAX_OBJECTS_AT_ONCE = 64

#: What SAM 2.1 has and SAM 2.0 has not, both for videos.
NEW_IN_SAM_2_1 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj"}


class Segmenter:
    """One loaded model, usable from any thread; calls take turns.

    Args:
        model: a SAM 2 model in eval mode on its device.
    """

    def __init__(self, model: SAM2Base) -> None:
        with memory_errors(), own_settings():
            self.predictor = ImagePredictor(model)
        self._searches = KeptSearches()
        self._turn = free_in_children(threading.Lock())

    @contextmanager
    def _running(self) -> Iterator[None]:
        """One caller at a time, in the precision of the device whatever the caller has set: bfloat16 on a GPU that has it
        (sam2's own recommendation), float32 elsewhere."""
        device = self.predictor.device.type
        with (
            memory_errors(),
            self._turn,
            steady_threads(),
            own_settings(),
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(self.predictor.device)),
        ):
            yield

    def forget_images(self) -> None:
        """Free what is kept of the images of before: their embeddings, and what searches have found in them."""
        with self._turn:
            self.predictor.forget_images()
            self._searches.forget()

    def segment(self, image: npt.NDArray[np.uint8], request: Request, progress: Progress | None = None) -> list[Masks]:
        """What `request` asks for in an image (H, W, 3) uint8 RGB.

        Args:
            image: (H, W, 3) uint8 RGB.
            request: made for an image of this size.
            progress: is told of each batch of a search.

        Returns:
            One set of masks, or three where objects are pointed at and all three candidates are asked for. Masks of a search
            are in the order of their labels (:func:`.masks.ranked`).
        """
        percent = request.input_size_percent
        if request.search is not None:
            return [ranked(self.generate(image, request.search, input_size_percent=percent, progress=progress))]
        candidates = self.predict(
            image,
            request.objects,
            multimask_output=request.multimask_output,
            mask_threshold=request.mask_threshold,
            input_size_percent=percent,
        )
        return chosen(candidates, request.mask_id) if request.multimask_output else candidates

    def predict(
        self,
        image: npt.NDArray[np.uint8],
        objects: Sequence[Object],
        *,
        multimask_output: bool = False,
        mask_threshold: float = 0.0,
        input_size_percent: int = 100,
    ) -> list[Masks]:
        """Masks of the objects that are pointed at.

        Args:
            image: (H, W, 3) uint8 RGB.
            objects: in pixels of `image`. One without points and box gets an empty mask, with a score of 0.
            multimask_output: three candidates for each object instead of one.
            mask_threshold: logit above which a pixel belongs to a mask.
            input_size_percent: encode the image at this size; masks are always at the size of `image`.

        Raises:
            ValueError: a point or a whole box outside the image, or a box without area.

        Returns:
            One :class:`Masks` per candidate, three or one, in the model's order; in each the masks of all objects in their
            order, (H, W) each.
        """
        with self._running():
            return self._predict(
                image, inside(objects, image.shape[:2]), multimask_output, mask_threshold, input_size_percent
            )

    def _predict(
        self,
        image: npt.NDArray[np.uint8],
        objects: Sequence[Object],
        multimask_output: bool,
        mask_threshold: float,
        input_size_percent: int,
    ) -> list[Masks]:
        image_hw = image.shape[:2]
        candidates = 3 if multimask_output else 1
        rles: list[list[RLE]] = [[empty(image_hw)] * len(objects) for _ in range(candidates)]
        scores = np.zeros((candidates, len(objects)), np.float32)

        def decode(places: Sequence[int]) -> None:
            batch = stacked([objects[k] for k in places])
            logits, ious = self.predictor.decode_objects(embedding, batch, image_hw, multimask_output)
            for place, of_object in zip(places, logits, strict=True):
                for k, rle in enumerate(self._encoded(of_object, image_hw, mask_threshold)):
                    rles[k][place] = rle
            scores[:, places] = ious.float().cpu().numpy().T

        size = BatchSize(MAX_OBJECTS_AT_ONCE)
        batches = kinds(objects)
        if batches:  # or the image need not be looked at
            embedding = self.predictor.embed(resize_percent(image, input_size_percent))
        for places in batches:
            for _ in in_batches(places, size, decode, lambda: self.predictor.forget_images(embedding), "object"):
                pass
        return [
            Masks(
                image_hw,
                rles[c],
                scores[c],
                names=[thing.name for thing in objects],
                ids=[thing.id for thing in objects],
                confidences=[thing.confidence for thing in objects],
            )
            for c in range(candidates)
        ]

    def _encoded(self, logits: Tensor, image_hw: tuple[int, int], mask_threshold: float) -> list[RLE]:
        """The masks of logits (C, h, w), at the size of the image."""
        masks = self.predictor.upscale(logits[None], image_hw)[0] > mask_threshold
        # Columns first in memory, as the encoding wants them: torch is quicker at it than numpy.
        return [encode(columns.T) for columns in masks.transpose(1, 2).contiguous().cpu().numpy()]

    def tracker(self, frame_count: int | None = None) -> Tracker:
        """Who follows objects through one video; None is followed yet.

        Args:
            frame_count: how many frames the video has, where that is known.

        Raises:
            ValueError: the weights cannot follow anything.
        """
        missing = missing_for_video(self.predictor.model)
        if missing and NEW_IN_SAM_2_1.issuperset(missing):
            raise ValueError(
                f"track: True is not accepted with weights of SAM 2.0 (they have no {', '.join(missing)}) and a model of SAM "
                "2.1; accepted is the model of SAM 2.0 from which they were trained: sam2_hiera_… as model_name."
            )
        if missing:
            raise ValueError(
                f"track: True is not accepted with these weights, which lack {', '.join(missing)}; accepted are the models "
                "that model_name names, and weights that were saved with their parts for videos."
            )
        with self._running():  # it prepares weights
            return Tracker(self.predictor, frame_count)

    def follow(
        self,
        tracker: Tracker,
        image: npt.NDArray[np.uint8],
        *,
        mask_threshold: float = 0.0,
        input_size_percent: int = 100,
        progress: Progress | None = None,
    ) -> Masks:
        """The objects that `tracker` follows in the next frame of its video, the first frame too, in which there are none yet.

        Args:
            tracker: of this segmenter.
            image: (H, W, 3) uint8 RGB.
            mask_threshold, input_size_percent: as in :meth:`predict`.
            progress: called with the objects done and in all; what it raises leaves the tracker in the frame before.

        Returns:
            A mask (H, W) of each, an empty one of an object that is not seen.
        """
        with self._running():
            embedding = self.predictor.embed(resize_percent(image, input_size_percent))
            return self._followed(tracker.follow(embedding, progress), image.shape[:2], mask_threshold)

    def begin(
        self,
        tracker: Tracker,
        image: npt.NDArray[np.uint8],
        objects: Sequence[Object] | Masks,
        *,
        at_most: int = MAX_LABELS,
        mask_threshold: float = 0.0,
        input_size_percent: int = 100,
    ) -> tuple[list[int], Masks]:
        """Let `tracker` follow objects from the current frame on, the one that :meth:`follow` was called with last.

        Args:
            tracker: of this segmenter.
            image: the frame.
            objects: in pixels of the frame; those without points and box are left out. Or masks, all of which are followed.
            at_most: of more objects those with the highest predicted IoU are followed.
            mask_threshold, input_size_percent: as in :meth:`predict`.

        Raises:
            ValueError: a point or a whole box outside the image, or a box without area.

        Returns:
            The places in `objects` of those that are followed, and their masks in this frame.
        """
        with self._running():
            embedding = self.predictor.embed(resize_percent(image, input_size_percent))
            if isinstance(objects, Masks):
                tracker.add_masks(embedding, objects)
                return list(range(len(objects))), objects
            places, seen = tracker.add(embedding, inside(objects, image.shape[:2]), image.shape[:2], at_most)
            return places, self._followed(seen, image.shape[:2], mask_threshold)

    def _followed(self, seen: SeenMasks | None, image_hw: tuple[int, int], mask_threshold: float) -> Masks:
        if seen is None:
            return Masks(image_hw, [], np.zeros(0, np.float32))
        rles = [rle for logits in seen.logits for rle in self._encoded(logits, image_hw, mask_threshold)]
        return Masks(image_hw, rles, seen.ious.float().cpu().numpy())

    def generate(
        self,
        image: npt.NDArray[np.uint8],
        settings: AutomaticSettings,
        *,
        input_size_percent: int = 100,
        progress: Progress | None = None,
    ) -> Masks:
        """Masks of everything in an image, in the order in which SAM2AutomaticMaskGenerator gives them.

        Args:
            image: (H, W, 3) uint8 RGB.
            settings: what to look for. Pixels in it (min_mask_region_area, min_mask_area, max_mask_area) are pixels of `image`.
            input_size_percent: search the image at this size; masks are always at the size of `image`.
            progress: called with the batches done and in all; what it raises ends the search.

        Raises:
            ValueError: settings that contradict one another.
            ImportError: min_mask_region_area above 0 where OpenCV is not installed.
        """
        image_hw = image.shape[:2]
        with self._running():
            resized = resize_percent(image, input_size_percent)
            area = settings.min_mask_region_area * resized.size / image.size
            of_resized = replace(settings, min_mask_region_area=round(area))
            found = MaskGenerator(self.predictor, of_resized, self._searches).generate(resized, progress)
        if resized is not image:
            found = replace(found, image_hw=image_hw, rles=[encode(_enlarged(mask, image_hw)) for mask in found])
        return found.take(np.flatnonzero(settings.keeps(found.areas)))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bfloat16. Those before Ampere (T4, V100, RTX 20) emulate it, slowly."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _enlarged(mask: npt.NDArray[np.bool_], image_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """`mask` at another size, each pixel taking the value of the nearest one."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(image_hw, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


_open: WeakValueDictionary[tuple, Segmenter] = WeakValueDictionary()
_opening = free_in_children(threading.Lock())


def open_segmenter(
    model_name: str = "sam2_hiera_small",
    *,
    model_weight_file: str = "",
    config_file: str = "",
    device: str = "cpu",
    apply_postprocessing: bool = True,
    on_download: Progress | None = None,
) -> Segmenter:
    """The segmenter of a model, shared: one is loaded per (weights, config, device, postprocessing) and process, and freed
    with the last who holds it.

    Args:
        model_name: a name of the catalogue; its checkpoint is downloaded where it is not found.
        model_weight_file: path of a checkpoint of your own, in place of the download. Where it holds some parts of a model
            alone, such as a mask decoder, the others come from the checkpoint of `model_name`.
        config_file: YAML of `model_weight_file`; empty: the one of `model_name`.
        device: "cpu", "cuda" or "cuda:1".
        apply_postprocessing: sam2's dynamic multimask.
        on_download: called with the bytes done and in all.

    Raises:
        ValueError: an unknown model name, an unsafe or broken config.
        CheckpointError: a checkpoint that cannot be downloaded or read.
    """
    # Not under the lock: who needs no download does not wait for one. Two that need the same download once.
    weights = Path(own_path(model_weight_file)) if model_weight_file else fetch_checkpoint(model_name, on_download)
    config = own_path(config_file) if config_file else catalogue_entry(model_name).config
    completed_by: list[str] = []

    def rest() -> Path:  # weights of some parts of a model alone: rare enough to wait for under the lock
        completed_by.append(model_name)
        return fetch_checkpoint(model_name, on_download)

    with _opening:  # two tasks that start together load once
        key: tuple = (_identity(weights), config, _identity(Path(config)), device, apply_postprocessing)
        segmenter = _open.get(key) or _open.get((*key, model_name))
        if segmenter is None:
            model = load_model(weights, config, device, apply_postprocessing, rest if model_weight_file else None)
            segmenter = Segmenter(model)
            key = (*key, *completed_by)
            _open[key] = segmenter
        return segmenter


def _identity(path: Path) -> tuple:
    """What tells a file from another and from its own later version."""
    if not path.is_file():
        return (str(path),)
    stat = path.stat()
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
