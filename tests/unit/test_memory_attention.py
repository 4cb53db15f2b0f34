"""The memory attention of a CPU gives what sam2's gives, up to float rounding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from infer_segment_anything_2.segmentation import memory_attention
from infer_segment_anything_2.segmentation.memory_attention import LeanMemoryAttention
from infer_segment_anything_2.segmentation.sam2_package import MemoryAttention, MemoryAttentionLayer, RoPEAttention

CHANNELS, OF_MEMORY = 32, 8


def attention(**changed) -> MemoryAttention:
    """Three layers as the released models have them, narrow ones."""
    torch.manual_seed(0)
    common = {"rope_theta": 10000.0, "embedding_dim": CHANNELS, "num_heads": 1, "downsample_rate": 1, "dropout": 0.1}
    settings = {
        "activation": "relu",
        "dropout": 0.1,
        "d_model": CHANNELS,
        "dim_feedforward": 2 * CHANNELS,
        "pos_enc_at_attn": False,
        "pos_enc_at_cross_attn_keys": True,
        "pos_enc_at_cross_attn_queries": False,
        "self_attention": RoPEAttention(**common, feat_sizes=(4, 4)),
        "cross_attention": RoPEAttention(**common, feat_sizes=(4, 4), rope_k_repeat=True, kv_in_dim=OF_MEMORY),
    } | changed
    made = MemoryAttention(CHANNELS, True, MemoryAttentionLayer(**settings), 3).eval()
    for parameter in made.parameters():  # all other than at their start, biases too
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def model(**changed) -> SimpleNamespace:
    return SimpleNamespace(memory_attention=attention(**changed))


@pytest.mark.parametrize(("side", "frames", "pointers"), [(4, 1, 0), (4, 3, 8), (26, 2, 5), (24, 7, 64)])
@torch.inference_mode()
def test_what_is_remembered_meets_a_frame_as_in_sam2(side, frames, pointers, monkeypatch):
    monkeypatch.setattr(memory_attention, "QUERIES_AT_ONCE", 200)  # several times, and a rest
    monkeypatch.setattr(memory_attention, "TOKENS_AT_ONCE", 300)
    ours = model()
    places, objects = side * side, 2
    features, position = torch.randn(2, 1, CHANNELS, side, side)
    memory = torch.randn(objects, frames * places + pointers, OF_MEMORY)
    memory_position = torch.randn(frames * places + pointers, OF_MEMORY)
    expected = ours.memory_attention(
        curr=[features.flatten(2).permute(2, 0, 1).expand(-1, objects, -1)],
        curr_pos=[position.flatten(2).permute(2, 0, 1).expand(-1, objects, -1)],
        memory=memory.transpose(0, 1),
        memory_pos=memory_position[:, None].expand(-1, objects, -1),
        num_obj_ptr_tokens=pointers,
    )
    found = LeanMemoryAttention(ours)(features, position, memory, memory_position, pointers)
    torch.testing.assert_close(
        found, expected.permute(1, 2, 0).reshape(objects, CHANNELS, side, side), rtol=1e-4, atol=1e-4
    )
    assert (found[0] - found[1]).abs().max() > 0.01  # memory matters


@pytest.mark.parametrize("levels", [(0, 0, 0), (-500, 0, 20), (0, 100, 300), (400, 380, -400), (-200, -300, -90)])
def test_values_are_added_up_with_the_softmax_of_scores_at_any_level(levels):
    """The greatest may come in any block."""
    blocks = [(level + 5 * torch.randn(20, 7), torch.randn(3, 20)) for level in levels]
    scores, values = torch.cat([scores for scores, _ in blocks]), torch.cat([values for _, values in blocks], dim=1)
    weighted = memory_attention._Weighted(torch.zeros(4, 7))
    for of_block, their_values in blocks:
        weighted.add(of_block - weighted.subtracted, torch.cat([their_values, torch.ones(1, 20)]))
    found = weighted.summed[:-1] / weighted.summed[-1]
    torch.testing.assert_close(found, values @ scores.softmax(dim=0), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_attention_weights_of_any_size_give_numbers():
    """The greatest may come in any block of keys, and be far above the others."""
    ours = model()
    for layer in ours.memory_attention.layers:
        layer.cross_attn_image.q_proj.weight.mul_(300)
    features, position = torch.randn(2, 1, CHANNELS, 24, 24)
    memory, memory_position = torch.randn(1, 4 * 576, OF_MEMORY), torch.randn(4 * 576, OF_MEMORY)
    assert LeanMemoryAttention(ours)(features, position, memory, memory_position, 0).isfinite().all()


def test_what_it_does_not_compute_is_left_to_sam2():
    assert LeanMemoryAttention.fits(model())
    assert not LeanMemoryAttention.fits(SimpleNamespace(memory_attention=None))
    for changed in ("pos_enc_at_attn", "pos_enc_at_cross_attn_queries"):
        assert not LeanMemoryAttention.fits(model(**{changed: True}))
    assert not LeanMemoryAttention.fits(model(pos_enc_at_cross_attn_keys=False))
    two_heads = RoPEAttention(embedding_dim=CHANNELS, num_heads=2, feat_sizes=(4, 4))
    assert not LeanMemoryAttention.fits(model(self_attention=two_heads))
