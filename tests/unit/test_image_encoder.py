"""The leaner image encoder gives the features of sam2's own."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from skimage import data

from infer_segment_anything_2.segmentation.image_encoder import LeanImageEncoder
from infer_segment_anything_2.segmentation.image_predictor import ImagePredictor


def random_model(config: str):
    torch.manual_seed(0)
    return oracle.released_model(config, None)


MODELS = {
    "nano": oracle.nano_model,
    "tiny": lambda: random_model("configs/sam2/sam2_hiera_t.yaml"),
    "small": lambda: random_model("configs/sam2.1/sam2.1_hiera_s.yaml"),
    # Another number of heads and size of windows.
    "base_plus": lambda: random_model("configs/sam2.1/sam2.1_hiera_b+.yaml"),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("small", "base_plus")]


@pytest.mark.parametrize("name", ["nano", "tiny", *SLOW])
def test_features_are_those_of_sam2(name):
    model = MODELS[name]()
    assert LeanImageEncoder.fits(model)
    theirs, ours = oracle.predictor(model), ImagePredictor(model)
    images = [data.coffee(), data.astronaut()[:100]]  # the second one meets what was kept
    for image in images if name == "nano" else images[:1]:
        theirs.set_image(image)
        with torch.inference_mode():
            embedding = ours.embed(image)
        pairs = zip(
            [embedding.image_embed, *embedding.high_res_feats],
            [theirs._features["image_embed"], *theirs._features["high_res_feats"]],
            strict=True,
        )
        for mine, other in pairs:
            assert mine.shape == other.shape
            # How they lie in memory decides how the decoder rounds, and masks of prompts shall be equal pixel for pixel.
            assert mine.stride() == other.stride()
            # Bit for bit where this was measured; elsewhere the processor may round matrix products of fewer rows otherwise.
            assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


def test_another_encoder_is_left_to_sam2(monkeypatch):
    model = oracle.nano_model()
    monkeypatch.setattr(model.image_encoder.trunk.blocks[2].mlp, "act", torch.nn.ReLU())
    assert not LeanImageEncoder.fits(model)
    theirs, ours = oracle.predictor(model), ImagePredictor(model)
    image = np.ascontiguousarray(data.astronaut()[:200])
    theirs.set_image(image)
    with torch.inference_mode():
        assert torch.equal(ours.embed(image).image_embed, theirs._features["image_embed"])
