"""A SAM 2 model at work: images in, masks out, image embeddings kept between calls.

>>> from infer_segment_anything_2.segmentation.segmenter import open_segmenter
>>> segmenter = open_segmenter("sam2_hiera_nano")
>>> (masks,) = segmenter.predict(image, Prompts(boxes=np.float32([[20, 30, 200, 180]])))
>>> masks[0], masks.scores[0]
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .checkpoints import CATALOGUE, fetch_checkpoint
from .forks import free_in_children
from .image_encoder import LeanImageEncoder
from .images import resize_percent
from .mask_generator import AutomaticSettings, MaskGenerator, Progress
from .masks import Masks, encode
from .memory import GPUMemoryError, memory_errors
from .model_loader import load_model, sam2_imports, without_deprecations
from .prompts import Prompts
from .surroundings import own_settings
from .threads import steady_threads

with sam2_imports():
    from sam2.modeling.sam2_base import SAM2Base
    from sam2.sam2_image_predictor import SAM2ImagePredictor
    from sam2.utils.transforms import SAM2Transforms
from torchvision.transforms import Normalize, Resize

#: Image embeddings kept per model, and the bytes that they may take together (one of a released model is 16 MB).
KEPT_EMBEDDINGS = 8
KEPT_BYTES = 256 << 20

#: Prompted objects in one call of the mask decoder: each takes some 10 MB there with a released model.
MOST_OBJECTS_AT_ONCE = 64


class _LowResolution(SAM2Transforms):
    """Leaves masks at the decoder's resolution, so that only those that are kept are brought to the image's size."""

    def __init__(self, resolution: int, mask_threshold: float) -> None:
        super().__init__(resolution, mask_threshold)
        # Not compiled as sam2 does it: TorchScript rounds mean and std to torch's default dtype.
        self.transforms = torch.nn.Sequential(Resize((resolution, resolution)), Normalize(self.mean, self.std))

    def postprocess_masks(self, masks: torch.Tensor, orig_hw: tuple[int, int]) -> torch.Tensor:
        return masks


class ImagePredictor(SAM2ImagePredictor):
    """SAM2ImagePredictor that remembers the embeddings of the last images and returns masks at low resolution.

    Works at any `image_size` of the model (sam2's own has the feature sizes of 1024 px models written in), and without
    sam2's messages on the root logger, which install a handler there.
    """

    def __init__(self, model: SAM2Base) -> None:
        with without_deprecations():
            super().__init__(model)
            self._transforms = _LowResolution(model.image_size, self.mask_threshold)
        self._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
        if self.device.type == "cpu":  # on a GPU, autocast has a part in what it computes
            with torch.no_grad():
                dense_pe = model.sam_prompt_encoder.get_dense_pe()
            model.sam_prompt_encoder.get_dense_pe = lambda: dense_pe  # a constant, which sam2 computes for each prompt
        lean = self.device.type == "cpu" and LeanImageEncoder.fits(model)
        self._feature_maps = LeanImageEncoder(model) if lean else self._feature_maps_of_sam2
        self._kept: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        self._last_image: tuple[npt.NDArray[np.uint8], bytes] | None = None
        self.encoded = 0  #: how many images have been encoded, as opposed to remembered

    @torch.inference_mode()
    def set_image(self, image: npt.NDArray[np.uint8]) -> None:
        """Make `image`, (H, W, 3) uint8 RGB, the one that masks are predicted for."""
        key = self._key(image)
        self.reset_predictor()
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            try:
                features = self._encode(image)
            except torch.OutOfMemoryError:
                features = None
            if features is None:  # after the except clause, which holds what the failed attempt had made
                features = self._encode_alone(image)
            self._kept[key] = features
            self._forget_old()
        self._features = self._kept[key]
        self._orig_hw = [image.shape[:2]]
        self._is_image_set = True

    def _key(self, image: npt.NDArray[np.uint8]) -> bytes:
        """What tells an image from others. The last one is recognised by its pixels, which takes a twentieth of the time."""
        if self._last_image is None or not np.array_equal(image, self._last_image[0]):
            image = np.array(image, order="C")  # a copy: the caller may go on to write into its own
            digest = hashlib.blake2b(image, digest_size=16).digest()
            self._last_image = (image, digest + repr(image.shape).encode())
        return self._last_image[1]

    def _encode(self, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
        self.encoded += 1
        # As torchvision's ToTensor, but float32 whatever torch's default is, and with one array of the image's size less.
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        pixels = self._transforms.transforms(pixels)[None].to(self.device)
        features = self._feature_maps(pixels)
        if self.model.directly_add_no_mem_embed:
            features[-1] = features[-1] + self.model.no_mem_embed
        # (h * w, 1, C), from fine to coarse, to the (1, C, h, w) that the decoder takes
        maps = [f.permute(1, 2, 0).reshape(1, -1, *hw) for f, hw in zip(features, self._bb_feat_sizes, strict=True)]
        return {"image_embed": maps[-1], "high_res_feats": maps[:-1]}

    def _encode_alone(self, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Encode on a GPU that has no memory for the image beside those that are kept."""
        self.forget_other_images()
        try:
            return self._encode(image)
        except torch.OutOfMemoryError as error:
            raise GPUMemoryError from error

    def forget_other_images(self) -> None:
        """Free the embeddings of all images but the one that is set."""
        self._kept = OrderedDict((key, kept) for key, kept in self._kept.items() if kept is self._features)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _feature_maps_of_sam2(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return self.model._prepare_backbone_features(self.model.forward_image(pixels))[1]

    def _forget_old(self) -> None:
        def size(kept: dict[str, Any]) -> int:
            return sum(t.nbytes for t in (kept["image_embed"], *kept["high_res_feats"]))

        while len(self._kept) > KEPT_EMBEDDINGS or (
            len(self._kept) > 1 and sum(map(size, self._kept.values())) > KEPT_BYTES
        ):
            self._kept.popitem(last=False)

    @staticmethod
    def upscale(low_res_masks: torch.Tensor, image_hw: tuple[int, int]) -> torch.Tensor:
        """Logits (N, C, h, w) at the size of the image, as sam2's SAM2Transforms.postprocess_masks does."""
        return F.interpolate(low_res_masks.float(), image_hw, mode="bilinear", align_corners=False)


class Segmenter:
    """One loaded model, usable from any thread; calls take turns.

    Args:
        model: a SAM 2 model in eval mode on its device.
    """

    def __init__(self, model: SAM2Base) -> None:
        with memory_errors(), own_settings():
            self.predictor = ImagePredictor(model)
        self._turn = free_in_children(threading.Lock())

    @contextmanager
    def _running(self) -> Iterator[None]:
        """One caller at a time, in the precision of the device whatever the caller has set: bfloat16 on a GPU that has it
        (sam2's own recommendation), float32 elsewhere."""
        device = self.predictor.device.type
        use_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported()
        with (
            memory_errors(),
            self._turn,
            steady_threads(),
            own_settings(),
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=use_bfloat16),
        ):
            yield

    def predict(
        self,
        image: npt.NDArray[np.uint8],
        prompts: Prompts,
        *,
        multimask_output: bool = False,
        mask_threshold: float = 0.0,
        input_size_percent: int = 100,
    ) -> list[Masks]:
        """Masks of the prompted objects.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompts: what is pointed at, in pixels of `image`.
            multimask_output: three candidates for each object instead of one.
            mask_threshold: logit above which a pixel belongs to a mask.
            input_size_percent: encode the image at this size; masks are always at the size of `image`.

        Returns:
            One :class:`Masks` per candidate, three or one, in the model's order; in each the masks of all objects in the
            order of the prompts, (H, W) each.
        """
        with self._running():
            self.predictor.set_image(resize_percent(image, input_size_percent))
            self.predictor._orig_hw = [
                image.shape[:2]
            ]  # prompts are relative to the original, whatever size was encoded
            at_once = min(MOST_OBJECTS_AT_ONCE, max(len(prompts.boxes), 1))
            while True:
                try:
                    return self._predict(image.shape[:2], prompts, multimask_output, mask_threshold, at_once)
                except torch.OutOfMemoryError as error:
                    if at_once == 1:
                        raise GPUMemoryError(", even for one object at a time") from error
                at_once //= 2
                self.predictor.forget_other_images()

    def _predict(
        self,
        image_hw: tuple[int, int],
        prompts: Prompts,
        multimask_output: bool,
        mask_threshold: float,
        at_once: int,
    ) -> list[Masks]:
        candidates = 3 if multimask_output else 1
        count = max(len(prompts.boxes), 1)
        rles: list[list[Any]] = [[None] * count for _ in range(candidates)]
        scores = np.zeros((candidates, count), np.float32)
        for batch in prompts.batches(at_once):
            _, coords, labels, boxes = self.predictor._prep_prompts(
                batch.point_coords, batch.point_labels, batch.boxes, None, normalize_coords=True
            )
            low_res, iou, _ = self.predictor._predict(
                coords, labels, boxes, multimask_output=multimask_output, return_logits=True
            )
            for place, logits, values in zip(batch.indices, low_res, iou.float().cpu().numpy(), strict=True):
                masks = self.predictor.upscale(logits[None], image_hw)[0] > mask_threshold
                # Columns first in memory, as the encoding wants them: torch is quicker at it than numpy.
                for k, columns in enumerate(masks.transpose(1, 2).contiguous().cpu().numpy()):
                    rles[k][place] = encode(columns.T)
                scores[:, place] = values
        return [Masks(image_hw, rles[k], scores[k]) for k in range(candidates)]

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
            settings: what to look for. Pixels in it (min_mask_region_area) are pixels of `image`.
            input_size_percent: search the image at this size; masks are always at the size of `image`.
            progress: called with the batches done and in all; what it raises ends the search.

        Raises:
            ValueError: settings that contradict one another.
        """
        image_hw = image.shape[:2]
        with self._running():
            resized = resize_percent(image, input_size_percent)
            area = settings.min_mask_region_area * resized.size / image.size
            settings = replace(settings, min_mask_region_area=round(area))
            found = MaskGenerator(self.predictor, settings).masks_of(resized, progress)
        if resized is image:
            return found
        return Masks(
            image_hw, [encode(_enlarged(mask, image_hw)) for mask in found], found.scores, found.stability_scores
        )


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
    on_download: Callable[[int, int | None], None] | None = None,
) -> Segmenter:
    """The segmenter of a model, shared: one is loaded per (weights, config, device, postprocessing) and process, and freed
    with the last who holds it.

    Args:
        model_name: a name of the catalogue; its checkpoint is downloaded where it is not found.
        model_weight_file: path of a checkpoint of your own, in place of the download.
        config_file: YAML of `model_weight_file`; empty: the one of `model_name`.
        device: "cpu", "cuda" or "cuda:1".
        apply_postprocessing: sam2's dynamic multimask.
        on_download: called with the bytes done and in all.

    Raises:
        ValueError: an unknown model name, an unsafe or broken config.
        CheckpointError: a checkpoint that cannot be downloaded or read.
    """
    # Not under the lock: who needs no download does not wait for one. Two that need the same download once.
    weights = Path(model_weight_file).expanduser() if model_weight_file else fetch_checkpoint(model_name, on_download)
    config = str(Path(config_file).expanduser()) if config_file else CATALOGUE[model_name].config
    with _opening:  # two tasks that start together load once
        key = (_identity(weights), config, _identity(Path(config)), device, apply_postprocessing)
        segmenter = _open.get(key)
        if segmenter is None:
            segmenter = Segmenter(load_model(weights, config, device, apply_postprocessing))
            _open[key] = segmenter
        return segmenter


def _identity(path: Path) -> tuple:
    """What tells a file from another and from its own later version."""
    if not path.is_file():
        return (str(path),)
    stat = path.stat()
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
