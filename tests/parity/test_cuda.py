"""On a real GPU: the masks of sam2 there, and what happens when its memory runs out. Skipped where there is none."""

from __future__ import annotations

import gc
import logging

import numpy as np
import oracle
import pytest
import torch
from pycocotools import mask as coco
from skimage import data

from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.masks import encode
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import typed_objects
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter, open_segmenter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TINY = "configs/sam2/sam2_hiera_t.yaml"
BOXES = np.array([[20, 20, 200, 200], [150, 20, 300, 200], [290, 340, 510, 510]], np.float32)
POINTS = np.array([[250, 100], [60, 60]], np.float32)
LOOSE = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.3, "points_per_side": 8}
ALL = LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}  # masks of random weights are noise


def autocast():
    """The precision that sam2's authors run it in."""
    return torch.autocast("cuda", torch.bfloat16)


@pytest.fixture(scope="module", params=["nano", "tiny"])
def both(request, tmp_path_factory):
    """The same weights, loaded by this project and by sam2: the bundled ones, and random ones in a released architecture."""
    if request.param == "nano":
        yield open_segmenter("sam2_hiera_nano", device="cuda"), oracle.nano_model().to("cuda")
    else:
        torch.manual_seed(0)
        model = oracle.released_model(TINY, None)
        path = tmp_path_factory.mktemp("weights") / "tiny.pt"
        torch.save({"model": model.state_dict()}, path)
        yield Segmenter(load_model(path, TINY, "cuda", True)), model.to("cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def little_memory():
    """Sets how many MB this process may take on the GPU beside what it holds."""

    def limit(megabytes: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (megabytes << 20)) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("multimask_output", [False, True])
def test_prompts_give_the_masks_of_sam2(both, multimask_output):
    segmenter, model = both
    image = data.astronaut()
    theirs = oracle.predictor(model)
    with autocast():
        theirs.set_image(image)
        masks, scores, _ = theirs.predict(
            point_coords=POINTS, point_labels=np.array([1, 1]), multimask_output=multimask_output
        )
    prompts = typed_objects(POINTS, np.array([1, 1]), np.zeros((0, 4), np.float32), image.shape[:2])
    found = segmenter.predict(image, prompts, multimask_output=multimask_output)
    assert len(found) == len(masks)
    for of_candidate, mask, score in zip(found, masks, scores, strict=True):
        assert oracle.iou(of_candidate[0], mask > 0) >= 0.999
        assert of_candidate.scores[0] == pytest.approx(score, abs=1e-2)


@pytest.mark.parametrize(
    ("both", "settings"),
    [
        ("nano", LOOSE),
        ("nano", LOOSE | {"use_m2m": True}),
        ("nano", LOOSE | {"use_m2m": True, "multimask_output": False}),
        ("nano", LOOSE | {"crop_n_layers": 1}),
        ("tiny", ALL),
        ("tiny", ALL | {"use_m2m": True}),
    ],
    indirect=["both"],
)
def test_automatic_mode_gives_the_masks_of_sam2(both, settings):
    segmenter, model = both
    image = data.astronaut()
    with autocast():
        theirs = oracle.mask_generator(model, **settings).generate(image)
    ours = segmenter.generate(image, AutomaticSettings(**settings))
    assert len(ours) == len(theirs) > 0
    overlap = coco.iou(ours.rles, [encode(mask["segmentation"]) for mask in theirs], [0] * len(theirs))
    assert overlap.max(axis=0).min() >= 0.999
    assert overlap.max(axis=1).min() >= 0.999


def test_masks_are_those_of_the_cpu_up_to_the_precision():
    image = data.coffee()
    prompts = typed_objects(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), BOXES, image.shape[:2])
    (on_gpu,) = open_segmenter("sam2_hiera_nano", device="cuda").predict(image, prompts)
    (on_cpu,) = open_segmenter("sam2_hiera_nano").predict(image, prompts)
    assert [oracle.iou(a, b) >= 0.95 for a, b in zip(on_gpu, on_cpu, strict=True)] == [True] * 3


@pytest.mark.parametrize(("both", "settings"), [("nano", LOOSE), ("tiny", ALL)], indirect=["both"])
def test_automatic_mode_takes_fewer_points_at_once_until_they_fit(both, settings, little_memory, caplog):
    segmenter, _ = both
    image = data.astronaut()
    settings = AutomaticSettings(**settings | {"points_per_side": 16, "points_per_batch": 256})
    expected = segmenter.generate(image, settings)
    segmenter.forget_images()
    little_memory(600)
    with caplog.at_level(logging.WARNING):
        found = segmenter.generate(image, settings)
    assert any("memory of the GPU ran out" in message for message in caplog.messages), "256 points fitted"
    # In bfloat16 another batch rounds otherwise: a mask at a threshold may come or go.
    assert len(found) == pytest.approx(len(expected), rel=0.05, abs=2)
    overlap = coco.iou(found.rles, expected.rles, [0] * len(expected)).max(axis=0)
    assert np.median(overlap) >= 0.99


def test_a_gpu_without_memory_is_an_error_that_says_so_and_the_next_run_works(both, little_memory):
    segmenter, _ = both
    image = data.astronaut()
    prompts = typed_objects(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), BOXES, image.shape[:2])
    (expected,) = segmenter.predict(image, prompts)
    segmenter.forget_images()
    little_memory(1)
    with pytest.raises(MemoryError, match="memory of the GPU ran out"):
        segmenter.predict(image, prompts)
    torch.cuda.set_per_process_memory_fraction(1.0)
    (found,) = segmenter.predict(image, prompts)
    assert [oracle.iou(a, b) for a, b in zip(found, expected, strict=True)] == [1.0] * 3


def test_the_memory_comes_back_with_the_last_who_holds_the_model():
    gc.collect()
    before = torch.cuda.memory_allocated()
    name = "sam2_hiera_nano"
    segmenter = Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cuda", True))
    segmenter.generate(data.astronaut(), AutomaticSettings(points_per_side=2))
    assert torch.cuda.memory_allocated() > before
    del segmenter
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + (9 << 20)  # cuBLAS keeps a workspace of its own


BESIDE = {
    "default device cuda": lambda: torch.device("cuda"),
    "autocast to float16": lambda: torch.autocast("cuda", torch.float16),
    "autocast on the CPU": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("name", [*BESIDE, "default dtype float64", "default dtype bfloat16", "TF32"])
def test_masks_do_not_depend_on_what_others_have_set(name, device):
    image, checkpoint = data.coffee(), "sam2_hiera_nano"
    prompts = typed_objects(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), BOXES, image.shape[:2])
    settings = AutomaticSettings(**LOOSE | {"crop_n_layers": 1, "points_per_side": 4})

    def masks():
        segmenter = Segmenter(load_model(fetch_checkpoint(checkpoint), CATALOGUE[checkpoint].config, device, True))
        return [*segmenter.predict(image, prompts), segmenter.generate(image, settings)]

    expected = masks()
    default = torch.get_default_dtype()
    precision = torch.get_float32_matmul_precision()
    try:
        with BESIDE.get(name, torch.no_grad)():
            if name.startswith("default dtype"):
                torch.set_default_dtype(getattr(torch, name.split()[-1]))
            if name == "TF32":
                torch.set_float32_matmul_precision("high")
            beside = torch.get_float32_matmul_precision(), torch.get_default_dtype()
            found = masks()
            assert (torch.get_float32_matmul_precision(), torch.get_default_dtype()) == beside
    finally:
        torch.set_default_dtype(default)
        torch.set_float32_matmul_precision(precision)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        assert [oracle.iou(a, b) >= 0.999 for a, b in zip(ours, theirs, strict=True)] == [True] * len(ours)


def test_a_gpu_too_small_for_the_model_is_told_and_then_it_is_loaded(little_memory):
    name = "sam2_hiera_nano"
    little_memory(1)
    with pytest.raises(MemoryError, match="memory of the GPU ran out"):
        Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cuda", True))
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cuda", True))
