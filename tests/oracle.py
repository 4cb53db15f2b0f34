"""sam2 itself, called directly: what the plugin's masks are compared with.

Nothing here goes through the plugin's own code, so that the two cannot be wrong in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path

import numpy as np
import sam2.sam2_video_predictor
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from sam2.utils.transforms import SAM2Transforms

MODELS = Path(__file__).resolve().parents[1] / "models"


def nano_model(apply_postprocessing: bool = True):
    config = OmegaConf.load(MODELS / "sam2_hiera_nano.yaml")
    if apply_postprocessing:
        config.model.sam_mask_decoder_extra_args = {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        }
    model = instantiate(config.model, _recursive_=True)
    weights = torch.load(MODELS / "sam2_hiera_nano.pt", weights_only=True)["model"]
    model.load_state_dict(weights)
    return model.eval()


def released_model(config: str, checkpoint: Path | None, apply_postprocessing: bool = True):
    """A model by sam2's own build_sam2, which wants Hydra initialised; Hydra is left as it was found."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("sam2", version_base="1.2"):
            path = str(checkpoint) if checkpoint else None
            return build_sam2(config, path, device="cpu", apply_postprocessing=apply_postprocessing)
    finally:
        GlobalHydra.instance().hydra = before


def _on_all_threads(made, *names: str):
    """`made`, whose methods `names` compute on as many threads as torch is set to: OpenCV, once imported, lets OpenMP take the
    load of the machine off their number, and with another one float sums are rounded otherwise."""

    def on_all_threads(method):
        @functools.wraps(method)
        def run(*args, **kwargs):
            with contextlib.suppress(OSError, AttributeError):  # another OpenMP, or none
                ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).omp_set_dynamic(0)
            return method(*args, **kwargs)

        return run

    for name in names:
        setattr(made, name, on_all_threads(getattr(made, name)))
    return made


def predictor(model, mask_threshold: float = 0.0) -> SAM2ImagePredictor:
    made = SAM2ImagePredictor(model, mask_threshold=mask_threshold)
    _on_all_threads(made, "set_image", "predict", "_predict")
    made._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return made


def mask_generator(model, **settings) -> SAM2AutomaticMaskGenerator:
    made = SAM2AutomaticMaskGenerator(model, **settings)
    _on_all_threads(made, "generate")
    made.predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return made


def painted(masks: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Label image: object k = k, smaller masks over larger ones, as the contract says."""
    labels = np.zeros(shape, np.uint8)
    for k in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        labels[masks[k]] = k + 1
    return labels


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def video_model(
    config: Path, weights: dict[str, torch.Tensor], strict: bool = True, **changed: int
) -> SAM2VideoPredictor:
    """A SAM2VideoPredictor as sam2's build_sam2_video_predictor makes it, but without filling holes.

    Args:
        config: a YAML.
        weights: of the model; without `strict` those that are missing stay random.
        changed: entries of the config.
    """
    tree = OmegaConf.load(config).model
    tree.update(changed)
    tree._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    tree.fill_hole_area = 0
    tree.binarize_mask_from_pts_for_mem_enc = True
    tree.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    model = instantiate(tree, _recursive_=True)
    model.load_state_dict(weights, strict=strict)
    return _on_all_threads(model.eval(), "_run_single_frame_inference", "_run_memory_encoder")


def video_state(model: SAM2VideoPredictor, frames: list[np.ndarray], frame_count: int | None = None) -> dict:
    """The inference state of frames (H, W, 3) uint8, scaled as the image predictor scales an image; its own loader reads files,
    and scales otherwise. With `frame_count` the video counts as one of so many frames."""
    transforms = SAM2Transforms(model.image_size, mask_threshold=0)
    pixels = torch.stack([transforms(frame) for frame in frames])
    loader = sam2.sam2_video_predictor.load_video_frames
    sam2.sam2_video_predictor.load_video_frames = lambda **_: (pixels, *frames[0].shape[:2])
    try:
        state = model.init_state("frames")
    finally:
        sam2.sam2_video_predictor.load_video_frames = loader
    state["num_frames"] = frame_count or len(frames)
    return state


def followed(model: SAM2VideoPredictor, state: dict, start: int = 0, stop: int | None = None) -> list[np.ndarray]:
    """The logits (N, H, W) of each frame from `start` to before `stop`, through propagate_in_video."""
    stop = len(state["images"]) if stop is None else stop
    frames = model.propagate_in_video(state, start_frame_idx=start, max_frame_num_to_track=stop - start - 1)
    return [logits[:, 0].numpy() for _, _, logits in frames]
