"""Teach sam2_hiera_nano to follow objects through videos: its memory alone, so that its masks of pictures stay.

    python train_videos.py small          # 256 px, goes on from the weights in this folder
    python train_videos.py follow         # with one mask in place of the best of three, after it

As SAM 2 is trained: clips of eight frames, objects prompted in the first one by a mask, a box or a point, then followed
without another prompt. What was seen in a frame is remembered for the next, and the loss goes back through all of them.
The image encoder and the mask decoder keep their weights. `hogwild.py` says how a stage is kept, paused and resumed.
"""

import argparse
import random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from clips import SMALLEST, Clip, clip
from hogwild import add_arguments, initial_weights, load_state, prepare_worker, start, train
from scenes import inner_point
from torch import Tensor, nn
from train import HERE, LOGIT_SCALE, MEAN, STD, add_loss_arguments, build, loose_box, mask_loss, shrink

LEARNS = (
    "memory_attention.",
    "memory_encoder.",
    "obj_ptr_proj.",
    "no_obj_ptr",
    "maskmem_tpos_enc",
    "mask_downsample.",
    "sam_mask_decoder.pred_obj_score_head.",
)
FIGURES = ("IoU followed", "IoU in the last frame", "presence right", "presence right, hidden", "IoU predicted, error")
STAGES: dict[str, dict[str, Any]] = {
    "small": {"size": 256, "minutes": 60, "lr": 5e-4, "init": str(HERE / "sam2_hiera_nano.pt"), "last_lr": 0.1},
    "follow": {"size": 256, "minutes": 14, "lr": 2e-4, "init": "small"},
}


def start_from_nothing(model: nn.Module) -> None:
    """Let attention find the same place and look in an earlier frame from the first step, and every object count as present.

    A memory is made to begin with what its place looked like, and is looked for with the same projection: the
    product of query and key is then the likeness of two places, and rotary encoding makes near ones more alike.
    """
    encoder, layer = model.memory_encoder, model.memory_attention.layers[0]
    attention = layer.cross_attn_image
    dim = encoder.pix_feat_proj.weight.shape[0]
    nn.init.dirac_(encoder.pix_feat_proj.weight)
    nn.init.orthogonal_(encoder.out_proj.weight.view(encoder.out_proj.weight.shape[0], dim))
    down = encoder.out_proj.weight.detach().view(-1, dim)
    nn.init.orthogonal_(attention.q_proj.weight, gain=1.5)
    with torch.no_grad():
        attention.k_proj.weight.copy_(attention.q_proj.weight @ down.T)
        layer.self_attn.out_proj.weight.mul_(0.1)
        attention.out_proj.weight.mul_(0.5)
        layer.linear2.weight.mul_(0.1)
        for block in encoder.fuser.layers:
            block.gamma.fill_(0.1)
        # A given mask becomes a mask prompt with logits of -10 and 10.
        model.mask_downsample.weight.fill_(20 / model.mask_downsample.weight.numel())
        model.mask_downsample.bias.fill_(-10)
        last = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        last.weight.mul_(0.1)
        last.bias.fill_(1)
    for projection in (attention.q_proj, attention.k_proj):
        nn.init.zeros_(projection.bias)


@torch.no_grad()
def fit_norm(model: nn.Module, features: Tensor) -> None:
    """Let memory attention's last normalization give back the features that the decoder knows.

    Args:
        features: (N, C) of pictures, as they go in; the decoder gets them with the embedding for "no memory".
    """
    norm = model.memory_attention.norm
    wanted = features + model.no_mem_embed.view(1, -1)
    x = F.layer_norm(features, (features.shape[1],))
    scale = ((x - x.mean(0)) * (wanted - wanted.mean(0))).mean(0) / x.var(0, unbiased=False).clamp(min=1e-6)
    norm.weight.copy_(scale)
    norm.bias.copy_(wanted.mean(0) - scale * x.mean(0))


@torch.no_grad()
def encode(model: nn.Module, images: npt.NDArray[np.uint8]) -> tuple[list[list[Tensor]], list[Tensor], list]:
    """Features of frames (T, size, size, 3): T lists of (HW, 1, C) by stride 4, 8, 16; their encodings; their sizes."""
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(x))
    return [[f[:, k : k + 1] for f in features] for k in range(len(images))], [p[:, :1] for p in positions], sizes


def first_prompt(made: Clip, wanted: list[int], r: random.Random) -> tuple[dict[str, Tensor] | None, Tensor | None]:
    """A prompt in the first frame for the objects `wanted`, the same kind for all: points or None, masks or None."""
    masks = [made.masks[0, i] for i in wanted]
    what = r.random()
    if what < 0.25:
        return None, torch.from_numpy(np.stack(masks))[:, None].float()
    if what < 0.5:
        coords = [[inner_point(mask, r)] for mask in masks]
        labels = [[1]] * len(masks)
    else:
        coords, labels = [loose_box(mask, r) for mask in masks], [[2, 3]] * len(masks)
    coords = torch.tensor(np.clip(coords, 0, made.masks.shape[-1]), dtype=torch.float32)
    return {"point_coords": coords, "point_labels": torch.tensor(labels, dtype=torch.int32)}, None


class ForcedPresence:
    """What the head says of an object's presence is kept; sam2 is told the truth in place of it, where asked for.

    While the head is not yet trained its word would erase masks, and nothing could be learnt of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.said: Tensor | None = None  # (N, 1) logits
        self.truth: Tensor | None = None  # (N,) bool
        model.sam_mask_decoder.pred_obj_score_head.register_forward_hook(self._hook)

    def _hook(self, _module: nn.Module, _given: tuple, said: Tensor) -> Tensor:
        self.said = said
        return said if self.truth is None else (self.truth[:, None].float() * 20 - 10)


def clip_loss(
    model: nn.Module, presence: ForcedPresence, made: Clip, args: argparse.Namespace, r: random.Random
) -> tuple[Tensor, Tensor]:
    """Return the loss of a clip and what is logged of it, in the order of FIGURES, (5,)."""
    wanted = r.sample(range(made.masks.shape[1]), min(args.objects, made.masks.shape[1]))
    features, positions, sizes = encode(model, made.images)
    points, masks = first_prompt(made, wanted, r)
    low = np.array([[shrink(frame[i]) for i in wanted] for frame in made.masks])
    visible = made.masks[:, wanted].mean((2, 3)) > SMALLEST
    forced = r.random() < args.forced
    memory: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    losses, ious, right, right_hidden, errors = [], [], [], [], []
    for k in range(len(features)):
        first = k == 0
        seen = torch.from_numpy(visible[k])
        presence.truth = seen if forced or first else None
        expanded = [f.expand(-1, len(wanted), -1) for f in features[k]]
        out, (_, _, predicted, logits, high, pointer, scores), _, _ = model._track_step(
            k, first, expanded, [p.expand(-1, len(wanted), -1) for p in positions], sizes,
            points if first else None, masks if first else None, memory, len(features), False, None,
        )  # fmt: skip
        out["obj_ptr"] = pointer
        model._encode_memory_in_output(expanded, sizes, points if first else None, True, high, scores, out)
        memory["cond_frame_outputs" if first else "non_cond_frame_outputs"][k] = out
        if first:
            continue
        assert presence.said is not None
        said = presence.said[:, 0]
        rare = 1 + (args.hidden - 1) * (~seen).float()  # few objects are hidden
        losses.append(args.presence * F.binary_cross_entropy_with_logits(said, seen.float(), rare))
        right.append(((said > 0) == seen).float())
        right_hidden.append(((said <= 0) & ~seen)[~seen].float())
        there = seen if forced else seen & (scores[:, 0] > 0)
        if there.any():
            shape, error, iou = mask_loss(
                logits[there] / LOGIT_SCALE,
                torch.from_numpy(low[k])[there],
                predicted.amax(1, keepdim=True)[there],
                args.focal,
                args.balance,
                args.border,
            )
            losses.append(shape.sum() / len(wanted))
            ious.append(iou[:, 0])
            errors.append(error[:, 0])
    nothing = torch.tensor(float("nan"))
    figures = [torch.cat(part).mean() if part else nothing for part in (ious, ious[-1:], right, right_hidden, errors)]
    return torch.stack(losses).sum() / (len(features) - 1), torch.stack(figures).detach()


def work(rank: int, args: argparse.Namespace, model: nn.Module, head: nn.Module, state: dict, counts: Tensor) -> None:
    """Compose a clip and step until the time is up."""
    prepare_worker(rank, args)
    presence = ForcedPresence(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(LEARNS))

    def step_loss(seed: int, done: float) -> tuple[Tensor, Tensor]:
        made = clip(seed, args.size, args.frames)
        return clip_loss(model, presence, made, args, random.Random(seed))

    parameters = [p for p in model.parameters() if p.requires_grad]
    train(rank, args, model, head, parameters, step_loss, FIGURES, state, counts)


def parse() -> argparse.Namespace:
    """The command line; a stage's settings take the place of the defaults."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("stage", choices=STAGES)
    add("--init", help="weights to start from, a file or a stage's name")
    add("--restart", action="store_true", help="forget what the memory of --init knows")
    add_arguments(p)
    add("--size", type=int, help="frames of this many pixels a side, a multiple of 32")
    add("--frames", type=int, default=8, help="frames of a clip")
    add("--objects", type=int, default=3, help="objects of a clip that are followed, at most")
    add("--forced", type=float, default=0.7, help="share of clips in which sam2 is told which objects are there")
    add(
        "--presence",
        type=float,
        default=0.5,
        help="weight of the loss of the head that says whether an object is there",
    )
    add("--hidden", type=float, default=5.0, help="weight there of an object that is hidden, beside one that is seen")
    add_loss_arguments(p)
    p.set_defaults(**STAGES[p.parse_args().stage])
    return p.parse_args()


def main() -> None:
    """Begin a stage or go on with it."""
    args = parse()
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    model, head = build(args.size).train(), nn.Module()
    state = load_state(args, model, head)
    if not state:
        initial_weights(args, STAGES, model)
        if args.init not in STAGES and args.restart:
            start_from_nothing(model)
            frames = np.concatenate([clip(seed, args.size, 1).images for seed in range(16)])
            fit_norm(model, torch.cat([f[-1][:, 0] for f in encode(model, frames)[0]]))
    start(work, args, model, head, state)


if __name__ == "__main__":
    main()
