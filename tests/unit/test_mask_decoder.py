"""The decoder for single points computes what sam2's own does."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from skimage import data

from infer_segment_anything_2.segmentation import crops
from infer_segment_anything_2.segmentation.mask_decoder import PointDecoder
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter


def random_model(config: str, apply_postprocessing: bool = True):
    torch.manual_seed(0)
    return oracle.released_model(config, None, apply_postprocessing)


MODELS = {
    "nano": oracle.nano_model,
    "nano, the single mask always": lambda: oracle.nano_model(apply_postprocessing=False),
    # The decoder of all released models; those of sam2 and 2.1 differ in what they remember of videos.
    "random weights in the tiny architecture": lambda: random_model("configs/sam2.1/sam2.1_hiera_t.yaml"),
}


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    """sam2's predictor with an image set and its masks left at low resolution, and our decoder for that image."""
    predictor = oracle.predictor(MODELS[request.param]())
    predictor.set_image(data.coffee())
    predictor._transforms.postprocess_masks = lambda masks, orig_hw: masks
    return predictor, PointDecoder(predictor.model, **predictor._features)


def points(predictor, count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(0, predictor.model.image_size, (count, 2))).float()


def of_sam2(predictor, where, multimask_output, mask_input=None):
    labels = torch.ones(len(where), 1, dtype=torch.int)
    masks, ious, _ = predictor._predict(
        where[:, None], labels, mask_input=mask_input, multimask_output=multimask_output, return_logits=True
    )
    return masks.flatten(0, 1), ious.flatten(0, 1)


def assert_close(ours, theirs):
    """To a hundred-thousandth of the largest logit: float32 in another order of summation."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("prompted", ["point alone", "point and mask"])
def test_masks_and_scores_are_those_of_sam2(both, multimask_output, prompted):
    predictor, decoder = both
    where = points(predictor, 5)
    mask = of_sam2(predictor, where, False)[0][:, None] if prompted == "point and mask" else None
    ours = decoder.decode(where, multimask_output=multimask_output, mask_input=mask)
    theirs = of_sam2(predictor, where, multimask_output, mask)
    assert ours.made.tolist() == list(range(len(theirs[0])))
    assert_close(ours.logits, theirs[0])
    assert_close(ours.ious, theirs[1])


@torch.inference_mode()
@pytest.mark.parametrize("multimask_output", [True, False])
def test_masks_below_the_predicted_iou_are_left_out(both, multimask_output):
    predictor, decoder = both
    where = points(predictor, 7)
    logits, ious = of_sam2(predictor, where, multimask_output)
    least = ious.median().item() + 1e-6
    keep = ious > least
    assert 0 < keep.sum() < len(keep)
    ours = decoder.decode(where, multimask_output=multimask_output, iou_above=least)
    assert ours.made.tolist() == torch.nonzero(keep)[:, 0].tolist()
    assert_close(ours.logits, logits[keep])
    assert_close(ours.ious[ours.made], ious[keep])
    nothing = decoder.decode(where, multimask_output=multimask_output, iou_above=2.0)
    assert nothing.logits.shape == (0, *logits.shape[1:])
    assert nothing.made.shape == (0,)
    # What is said of masks that are not made is the most that their IoU can be.
    assert (nothing.ious >= ious - 1e-5).all()


@torch.inference_mode()
@pytest.mark.parametrize("multimask_output", [True, False])
def test_a_mask_is_the_same_whichever_others_are_made_with_it(both, multimask_output):
    predictor, decoder = both
    where = points(predictor, 7)
    every = decoder.decode(where, multimask_output=multimask_output)
    least = every.ious.median().item()
    high = decoder.decode(where, multimask_output=multimask_output, iou_above=least)
    skip = torch.zeros(len(every.ious), dtype=torch.bool)
    skip[high.made] = True
    low = decoder.decode(where, multimask_output=multimask_output, skip=skip)
    assert sorted(high.made.tolist() + low.made.tolist()) == every.made.tolist()
    for part in (high, low):
        assert 0 < len(part.made) < len(every.made)
        assert torch.equal(part.logits, every.logits[part.made])
        assert torch.equal(part.ious[part.made], every.ious[part.made])


@torch.inference_mode()
def test_a_point_gives_the_same_masks_in_any_company(both):
    predictor, decoder = both
    where = points(predictor, 6)
    together = decoder.decode(where, multimask_output=True)
    alone = torch.cat([decoder.decode(p[None], multimask_output=True).logits for p in where])
    assert_close(together.logits, alone)


def test_another_decoder_is_left_to_sam2_with_the_same_masks(monkeypatch):
    """A model without high-resolution features has a decoder that PointDecoder does not compute."""
    model = oracle.nano_model()
    assert PointDecoder.fits(model)
    monkeypatch.setattr(model.sam_mask_decoder, "use_high_res_features", False)
    assert not PointDecoder.fits(model)
    monkeypatch.undo()

    settings = AutomaticSettings(points_per_side=5, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    segmenter = Segmenter(model)
    ours = segmenter.generate(data.coffee(), settings)
    segmenter.forget_images()
    monkeypatch.setattr(crops.PointDecoder, "fits", staticmethod(lambda model: False))
    monkeypatch.setattr(crops.PointDecoder, "decode", lambda *args, **kwargs: pytest.fail("not left to sam2"))
    theirs = segmenter.generate(data.coffee(), settings)
    assert len(ours) == len(theirs) > 2
    assert min(oracle.iou(a, b) for a, b in zip(ours, theirs, strict=True)) > 0.999
