"""Train sam2_hiera_nano, one stage a call: workers share the weights (Hogwild), a picture a step.

    python train.py deeper

STAGES names the stages with their settings; any can be changed on the command line. `hogwild.py` says how a stage is
kept, paused and resumed.
"""

import argparse
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from hogwild import add_arguments, initial_weights, load_state, prepare_worker, start, train
from hydra.utils import instantiate
from omegaconf import OmegaConf
from photo_scenes import crop_of, crowd_pool, grounds, photo_scene
from scenes import Scene, bounding_box, broken_pixels, inner_point, scene
from torch import Tensor, nn

CONFIG = Path(__file__).with_name("sam2_hiera_nano.yaml")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
MASK_STRIDE = 4  # the decoder's masks are a quarter of the picture a side
STRIDES = (4, 8, 16)
SMALLER = (256, 384)  # px a side of the pictures that --smaller is about: 3.4 and 1.9 times as fast as 512
NEAR_BORDER = 5  # cells a side of the neighbourhood in which a border counts as near
FIGURES = (
    "IoU point",
    "IoU box and points",
    "error of predicted IoU, three masks",
    "one mask",
    "IoU refined",
    "IoU with broken pixels",
)
LOGIT_SCALE = 12.0  # export.py multiplies the logits with it: good masks then pass automatic mode's stability threshold
HERE = Path(__file__).parent
# Of the stages that go on from the weights in this folder.
ONWARD = {"init": str(HERE / "sam2_hiera_nano.pt"), "scaled": LOGIT_SCALE, "border": 2.0}
# The stages in order; what they do not name is as the command line's default. The first three start from nothing.
STAGES: dict[str, dict[str, Any]] = {
    "start": {
        "size": 128, "minutes": 15, "lr": 5e-4, "init": "", "photographs": 0.0, "plain": 1.0, "easy": 0.3, "dense": 1.0,
        "dense_share": 1.0, "focal": 2.0, "balance": 0.5, "refine": 0.0, "prompts": 8, "last_lr": 0.02,
    },
    "middle": {
        "size": 256, "minutes": 45, "lr": 5e-4, "init": "start", "photographs": 0.3, "easy": 0.1, "dense_share": 1.0,
        "prompts": 8, "balance": 0.25, "last_lr": 0.02,
    },
    "large": {"size": 512, "minutes": 75, "lr": 3e-4, "init": "middle", "dense": 0.6, "dense_share": 0.34},
    "objects": {
        **ONWARD, "minutes": 85, "lr": 3e-4, "photographs": 0.5, "plain": 0.3,
    },
    "sizes": {
        **ONWARD, "minutes": 95, "lr": 1.5e-4, "beta2": 0.999, "photographs": 0.5, "plain": 0.25, "chalk": 0.2, "smaller": 0.9,
    },
    "deeper": {
        **ONWARD, "minutes": 85, "lr": 2.5e-4, "beta2": 0.999, "photographs": 0.55, "plain": 0.25, "chalk": 0.25,
        "smaller": 0.9, "prompts": 4,
    },
    "steady": {
        **ONWARD, "minutes": 85, "lr": 2e-4, "beta2": 0.999, "photographs": 0.6, "plain": 0.35, "chalk": 0.2,
        "smaller": 0.8, "prompts": 4, "steady": 0.3, "boxes_alone": 0.5,
    },
    "tighter": {
        **ONWARD, "minutes": 85, "lr": 2e-4, "beta2": 0.999, "photographs": 0.6, "plain": 0.5, "chalk": 0.2,
        "smaller": 0.85, "prompts": 4, "steady": 0.1, "boxes_alone": 0.5, "balance": 0.0,
    },
    "muon": {
        **ONWARD, "minutes": 85, "lr": 2.5e-4, "beta2": 0.999, "photographs": 0.7, "plain": 0.5, "chalk": 0.2,
        "smaller": 0.85, "prompts": 4, "steady": 0.2, "boxes_alone": 0.5, "balance": 0.0, "muon": True,
    },
    "scores": {
        "minutes": 6, "lr": 1e-3, "init": "tighter", "only_iou": True, "prompts": 8, "anywhere": 0.35, "refine": 0.3,
        "keep": 0.99, "chalk": 0.2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One picture; K points for the three-mask output; K boxes and sets of points for the one-mask output.

    Attributes:
        image: (size, size, 3) uint8.
        points, labels: (K, 1, 2) float32 pixels and (K, 1) int32, all ones.
        point_masks: (K, size / 4, size / 4) float32, the share of each cell that the wanted object covers.
        boxes, box_labels: (K, 5, 2) and (K, 5); label 2, 3 is a box's corner, 1, 0 a point, -1 padding. Or (K, 2, 2) and
            (K, 2): boxes alone.
        box_masks: (K, size / 4, size / 4) float32.
        objects: (size / 4, size / 4) int64, the number of the visible object, 0 for background.
    """

    image: npt.NDArray[np.uint8]
    points: Tensor
    labels: Tensor
    point_masks: Tensor
    boxes: Tensor
    box_labels: Tensor
    box_masks: Tensor
    objects: Tensor


def build(size: int) -> nn.Module:
    """Return the model for pictures of `size` px, a multiple of 32; the weights do not depend on it."""
    cfg = OmegaConf.load(CONFIG)
    cfg.model.image_size = size
    return instantiate(cfg.model, _recursive_=True)


def set_size(model: nn.Module, size: int) -> None:
    """Make a model expect prompts for pictures of another size, a multiple of 32."""
    encoder = model.sam_prompt_encoder
    model.image_size, encoder.input_image_size = size, (size, size)
    encoder.image_embedding_size, encoder.mask_input_size = (size // 16,) * 2, (size // 4,) * 2


def draw_size(args: argparse.Namespace, r: random.Random, done: float) -> int:
    """Pixels a side of a step's picture; smaller ones, of which more fit into an hour, become rare as the stage goes on."""
    return r.choice(SMALLER) if r.random() < args.smaller * (1 - done**2) else args.size


def shrink(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(H / 4, W / 4) share of each of the decoder's cells that a mask (H, W) covers."""
    scale = 1 / MASK_STRIDE
    return cv2.resize(mask.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def around(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What lies within 12 px outside a mask (H, W)."""
    return (cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0) & ~mask


def loose_box(mask: npt.NDArray[np.bool_], r: random.Random) -> npt.NDArray[np.float64]:
    """(2, 2), xy of the corners of a mask's box as a hand draws it: a few percent of its sides too large or too small."""
    corners = np.reshape(bounding_box(mask), (2, 2))
    spread = r.choice([0.0, 0.03, 0.06]) * (corners[1] - corners[0])
    return corners + spread * [[r.gauss(0, 1), r.gauss(0, 1)] for _ in corners]


def training_scene(seed: int, size: int, args: argparse.Namespace, r: random.Random) -> Scene:
    """Compose a scene of `size` pixels, of a kind drawn with the shares asked for."""
    if r.random() < args.photographs:
        return photo_scene(seed, size)
    wide = 1 - args.plain - args.chalk
    kind = r.choices(("plain", "chalk", "wide"), (args.plain, args.chalk, wide))[0]
    return scene(seed, size, crowd_pool(), kind, easy=r.random() < args.easy)


def make_example(seed: int, size: int, args: argparse.Namespace) -> Example:
    """Compose a scene of `size` pixels and draw --prompts prompts of each group."""
    r = random.Random(seed * 7 + 1)
    made = training_scene(seed, size, args, r)
    low = [shrink(mask) for mask in made.masks]

    def choose() -> list[int]:
        order = list(range(len(low)))
        r.shuffle(order)
        return [order[k % len(order)] for k in range(args.prompts)]

    points, point_masks = [], []
    for i in choose():
        if r.random() < args.anywhere:
            x, y = r.randrange(size), r.randrange(size)
            points.append([(x + 0.5, y + 0.5)])
            under = np.flatnonzero(made.masks[:, y, x])
            point_masks.append(low[under[0]] if len(under) else 1 - np.sum(low, 0))
        else:
            points.append([inner_point(made.masks[i], r, r.random() < 0.8)])
            point_masks.append(low[i])
    for_boxes, alone = choose(), r.random() < args.boxes_alone
    boxes, labels = np.zeros((args.prompts, 5, 2), np.float32), -np.ones((args.prompts, 5), np.int32)
    for k, i in enumerate(for_boxes):
        mask, what, used = made.masks[i], r.uniform(0, 0.6 if alone else 1), 0
        if what < 0.8:
            boxes[k, :2] = loose_box(mask, r)
            labels[k, :2], used = (2, 3), 2
        if what > 0.6:
            for _ in range(r.randint(1, 3)):
                wanted = used == 0 or r.random() < 0.7
                boxes[k, used] = inner_point(mask if wanted else around(mask), r, wanted)
                labels[k, used] = wanted
                used += 1
    if alone:  # as users give them: padding would be tokens too
        boxes, labels = boxes[:, :2], labels[:, :2]
    objects = np.zeros(low[0].shape, np.int64)
    for i, cells in enumerate(low):
        objects[cells > 0.5] = i + 1
    return Example(
        image=made.image,
        points=torch.tensor(points, dtype=torch.float32),
        labels=torch.ones(args.prompts, 1, dtype=torch.int32),
        point_masks=torch.from_numpy(np.stack(point_masks)),
        boxes=torch.from_numpy(np.clip(boxes, 0, size)),
        box_labels=torch.from_numpy(labels),
        box_masks=torch.from_numpy(np.stack([low[i] for i in for_boxes])),
        objects=torch.from_numpy(objects),
    )


def encode(model: nn.Module, image: npt.NDArray[np.uint8]) -> list[Tensor]:
    """Features (1, C, H, W) of a picture (size, size, 3) at strides 4, 8, 16, for the mask decoder."""
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - MEAN) / STD
    _, features, _, _ = model._prepare_backbone_features(model.forward_image(x))
    features[-1] = features[-1] + model.no_mem_embed
    return [
        f.permute(1, 2, 0).reshape(1, -1, len(image) // s, len(image) // s)
        for f, s in zip(features, STRIDES, strict=True)
    ]


def decode(
    model: nn.Module,
    features: list[Tensor],
    points: Tensor,
    labels: Tensor,
    multi: bool,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return logits (K, M, h, w) and predicted IoU (K, M) of K prompts; M is 3 if `multi`, else 1.

    masks: (K, 1, h, w) logits of earlier masks, as prompts.
    """
    sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=masks)
    high = [f.expand(len(points), -1, -1, -1) for f in features[:-1]]
    logits, iou, _, _ = model.sam_mask_decoder(
        image_embeddings=features[-1],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multi,
        repeat_image=True,
        high_res_features=high,
    )
    return logits, iou


def near_border(wanted: Tensor) -> Tensor:
    """(K, h, w) 1 where a mask's border is near, else 0, of masks (K, h, w)."""
    on, pad = (wanted > 0.5).float()[:, None], NEAR_BORDER // 2
    both = F.max_pool2d(torch.cat([on, 1 - on], 1), NEAR_BORDER, 1, pad)
    return both[:, 0] * both[:, 1]


def mask_loss(
    logits: Tensor, wanted: Tensor, predicted: Tensor, focal_weight: float, balance: float, border: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Per mask (K, M): the loss of its shape, the error of its predicted IoU, and its IoU.

    The shape's loss is dice + `focal_weight` * focal + `balance` * cross entropy with object and background
    weighted equally; in the last two, cells near the border weigh 1 + `border`. SAM 2's own 20 x focal collapses
    to empty masks when a small model starts from nothing.
    """
    g = wanted[:, None].expand_as(logits)
    p, ce = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, g, reduction="none")
    area = g.sum((2, 3))
    if border:
        ce = ce * (1 + border * near_border(wanted))[:, None]
    focal = (ce * (p - g) ** 2).mean((2, 3))
    dice = 1 - (2 * (p * g).sum((2, 3)) + 1) / (p.sum((2, 3)) + area + 1)
    loss = dice + focal_weight * focal
    if balance:
        on = (ce * g).sum((2, 3))
        loss = loss + balance * (on / (area + 1) + (ce.sum((2, 3)) - on) / (g[0, 0].numel() - area + 1))
    with torch.no_grad():
        got, want = logits > 0, g > 0.5
        iou = (got & want).sum((2, 3)) / ((got | want).sum((2, 3)) + 1e-6)
    return loss, (predicted - iou).abs(), iou


class Dense(nn.Module):
    """Auxiliary head, thrown away after training.

    It predicts the foreground, and embeddings that agree inside an object and differ between objects: that
    teaches the encoder directly what an object is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(16 + 32 + 128, 64, 1), nn.GELU(), nn.Conv2d(64, 17, 1))

    def forward(self, features: list[Tensor], objects: Tensor) -> Tensor:
        """The loss for features as of `encode` and objects (H, W) int64."""
        up = [
            F.interpolate(f, scale_factor=float(s), mode="bilinear") for f, s in zip(features, (1, 2, 4), strict=True)
        ]
        out = self.head(torch.cat(up, 1))[0]
        embedding, objects = out[:16].flatten(1), objects.flatten()
        one_hot = F.one_hot(objects).float()
        count = one_hot.sum(0)
        mean = embedding @ one_hot / (count + 1e-6)
        pull = ((embedding - mean[:, objects]).norm(dim=0) - 0.5).clamp(min=0) ** 2
        loss = F.binary_cross_entropy_with_logits(out[16].flatten(), (objects > 0).float())
        loss = loss + ((pull @ one_hot) / (count + 1e-6))[count > 8].mean()
        mean = mean[:, count > 8]
        n = mean.shape[1]
        if n > 1:
            gap = (mean[:, :, None] - mean[:, None]).norm(dim=0) + torch.eye(n) * 10
            loss = loss + 0.3 * ((3 - gap).clamp(min=0) ** 2).sum() / (n * (n - 1))
        return loss


def scale_logits(model: nn.Module, scale: float) -> None:
    """Multiply all mask logits by `scale`, exactly: the masks stay the same, masks as prompts mean the same."""
    with torch.no_grad():
        for network in model.sam_mask_decoder.output_hypernetworks_mlps:
            network.layers[-1].weight *= scale
            network.layers[-1].bias *= scale
        model.sam_prompt_encoder.mask_downscaling[0].weight /= scale


def start_from_nothing(model: nn.Module) -> None:
    """Make queries equal keys, so that a point's position code finds its place from the first step."""
    transformer = model.sam_mask_decoder.transformer
    attentions = [a for b in transformer.layers for a in (b.cross_attn_token_to_image, b.cross_attn_image_to_token)]
    for attention in [*attentions, transformer.final_attn_token_to_image]:
        nn.init.orthogonal_(attention.q_proj.weight, gain=2)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
        attention.q_proj.bias.data.zero_()
        attention.k_proj.bias.data.zero_()


def trained_parameters(model: nn.Module, dense: Dense, only_iou: bool) -> list[nn.Parameter]:
    """Return the parameters to train and freeze the others; the memory of videos is for `train_videos.py`."""
    head = "sam_mask_decoder.iou_prediction_head"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(head) if only_iou else not name.startswith("memory"))
    return [p for p in model.parameters() if p.requires_grad] + ([] if only_iou else list(dense.parameters()))


def refinement(
    model: nn.Module,
    features: list[Tensor],
    example: Example,
    logits: Tensor,
    chosen: Tensor,
    r: random.Random,
) -> tuple[Tensor, Tensor]:
    """Decode the points again with the first masks as prompts, half of the time with a correcting click."""
    limit = 32 / LOGIT_SCALE  # where SAM 2 clips logits before they serve as prompts
    first = logits[torch.arange(len(chosen)), chosen].detach()
    points, labels = example.points, example.labels
    if r.random() < 0.5:
        clicks, kinds = [], []
        for got, want in zip((first > 0).numpy(), (example.point_masks > 0.5).numpy(), strict=True):
            missed, extra = want & ~got, got & ~want
            wanted = missed.sum() >= extra.sum()
            x, y = inner_point(missed if wanted else extra, r)
            clicks.append([[x * MASK_STRIDE, y * MASK_STRIDE]])
            kinds.append([int(wanted) if (missed | extra).any() else -1])
        points = torch.cat([points, torch.tensor(clicks, dtype=torch.float32)], 1)
        labels = torch.cat([labels, torch.tensor(kinds, dtype=torch.int32)], 1)
    return decode(model, features, points, labels, False, first.clamp(-limit, limit)[:, None])


def total_loss(
    model: nn.Module, dense: Dense, example: Example, args: argparse.Namespace, r: random.Random
) -> tuple[Tensor, Tensor]:
    """Return the loss of a step and what is logged of it, in the order of FIGURES, (6,)."""

    def judge(logits: Tensor, wanted: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return mask_loss(logits, wanted, predicted, args.focal, args.balance, args.border)

    features = encode(model, example.image)
    logits, predicted = decode(model, features, example.points, example.labels, True)
    loss_a, error_a, iou_a = judge(logits, example.point_masks, predicted)
    each, best = torch.arange(len(loss_a)), loss_a.argmin(1)
    boxed, predicted = decode(model, features, example.boxes, example.box_labels, False)
    loss_b, error_b, iou_b = judge(boxed, example.box_masks, predicted)
    # Of three masks the best one learns; a little of the loss for all keeps the others from dying.
    shape_loss = loss_a[each, best].mean() + 0.1 * loss_a.mean() + args.box_weight * loss_b.mean()
    iou_loss = error_a.mean() + args.box_weight * error_b.mean()
    figures = torch.stack([iou_a[each, best].mean(), iou_b.mean(), error_a.mean(), error_b.mean()]).detach()
    refined_iou = torch.tensor(math.nan)
    if r.random() < args.refine:
        first = best if r.random() < 0.5 else torch.full_like(best, r.randrange(3))
        refined, predicted = refinement(model, features, example, logits, first, r)
        loss_c, error_c, iou_c = judge(refined, example.point_masks, predicted)
        shape_loss, iou_loss = shape_loss + loss_c.mean(), iou_loss + error_c.mean()
        refined_iou = iou_c.mean()
    figures = torch.cat([figures, torch.stack([refined_iou, torch.tensor(math.nan)])])
    if args.only_iou:
        return iou_loss / 2, figures
    loss = (shape_loss + iou_loss) / 2
    if r.random() < args.dense_share:
        loss = loss + args.dense * dense(features, example.objects)
    return loss, figures


def steady_loss(
    model: nn.Module, teacher: nn.Module, size: int, args: argparse.Namespace, r: random.Random
) -> tuple[Tensor, Tensor]:
    """Return the loss of a step on a photograph, mostly with broken pixels, and what is logged of it, as `total_loss` does.

    The wanted masks of some random boxes are those that `teacher`, the weights at the stage's start, gives without the broken
    pixels. If the weights that are trained gave them, the same mask for every box would be the easiest answer.
    """
    clean = crop_of(r, r.choice(grounds()), size, 0.4)
    broken = broken_pixels(r, clean, 10 ** r.uniform(-3, -1.8)) if r.random() < 0.8 else clean
    boxes = np.zeros((args.prompts, 2, 2), np.float32)
    for box in boxes:
        sides = [size * math.exp(r.uniform(math.log(0.08), 0)) for _ in range(2)]
        box[0] = [r.uniform(0, size - side) for side in sides]
        box[1] = box[0] + sides
    prompts = torch.from_numpy(boxes), torch.tensor([[2, 3]] * args.prompts, dtype=torch.int32)
    set_size(teacher, size)
    with torch.no_grad():
        wanted = decode(teacher, encode(teacher, clean.astype(np.uint8)), *prompts, False)[0][:, 0] > 0
    logits, predicted = decode(model, encode(model, broken.astype(np.uint8)), *prompts, False)
    loss, _, iou = mask_loss(logits, wanted.float(), predicted, args.focal, args.balance, args.border)
    return loss.mean(), torch.tensor([math.nan] * (len(FIGURES) - 1) + [iou.mean()])


def put_initial(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """Put the weights of --init into the model, with logits as in training; what else lies beside them is returned."""
    given = initial_weights(args, STAGES, model)
    scale_logits(model, 1 / args.scaled)
    return given


def work(rank: int, args: argparse.Namespace, model: nn.Module, dense: Dense, state: dict, counts: Tensor) -> None:
    """Compose a scene and step until the time is up."""
    prepare_worker(rank, args)
    if args.compile:
        model.image_encoder.forward = torch.compile(model.image_encoder.forward)

    if args.steady:
        teacher = build(args.size)
        put_initial(args, teacher)

    def step_loss(seed: int, done: float) -> tuple[Tensor, Tensor]:
        r = random.Random(seed)
        size = draw_size(args, r, done)
        set_size(model, size)
        if r.random() < args.steady:
            return steady_loss(model, teacher, size, args, r)
        return total_loss(model, dense, make_example(seed, size, args), args, r)

    parameters = trained_parameters(model, dense, args.only_iou)
    train(rank, args, model, dense, parameters, step_loss, FIGURES, state, counts)


def add_loss_arguments(p: argparse.ArgumentParser) -> None:
    """What `mask_loss` weighs."""
    p.add_argument("--focal", type=float, default=4.0, help="weight of the focal loss")
    p.add_argument("--balance", type=float, default=0.15, help="weight of the balanced cross entropy")
    p.add_argument("--border", type=float, default=0.0, help="weight that cells near a border have in addition")


def parse() -> argparse.Namespace:
    """The command line; a stage's settings take the place of the defaults."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("stage", choices=STAGES)
    add("--init", help="weights to start from, a file or a stage's name; empty: from nothing")
    add("--scaled", type=float, default=1.0, help="what the logits of --init were multiplied with, to be undone")
    add_arguments(p)
    add("--size", type=int, default=512, help="pictures of this many pixels a side, a multiple of 32")
    add("--smaller", type=float, default=0.0, help="share of steps on smaller pictures at first; none at the end")
    add("--prompts", type=int, default=6, help="prompts of each group per picture")
    add("--photographs", type=float, default=0.6, help="share of scenes over photographs")
    add("--easy", type=float, default=0.0, help="share of easy scenes among the others")
    add(
        "--plain",
        type=float,
        default=0.0,
        help="share of scenes without extra styles and camera faults among the others",
    )
    add("--chalk", type=float, default=0.0, help="share of line drawings in their ground's colour among the others")
    add("--boxes-alone", type=float, default=0.0, help="share of pictures of which all boxes come without points")
    add("--anywhere", type=float, default=0.0, help="share of points that may lie on the background")
    add("--only-iou", action="store_true", help="train only the head that predicts the IoU")
    add("--dense", type=float, default=0.5, help="weight of the auxiliary dense loss")
    add("--dense-share", type=float, default=0.25, help="share of steps with the dense loss")
    add_loss_arguments(p)
    add("--box-weight", type=float, default=1.3, help="weight of the one-mask output beside the three-mask output")
    add("--steady", type=float, default=0.0, help="share of steps that make masks steady against broken pixels")
    add("--refine", type=float, default=0.15, help="share of steps with a mask as prompt")
    add("--compile", action="store_true", help="torch.compile the image encoder (needs a C++ compiler)")
    p.set_defaults(**STAGES[p.parse_args().stage])
    return p.parse_args()


def main() -> None:
    """Begin a stage or go on with it."""
    args = parse()
    torch.manual_seed(args.seed)
    model, dense = build(args.size).train(), Dense()
    state = load_state(args, model, dense)
    if not state and args.init:
        given = put_initial(args, model)
        if "dense" in given:
            dense.load_state_dict(given["dense"])
    elif not state:
        start_from_nothing(model)
    start(work, args, model, dense, state)


if __name__ == "__main__":
    main()
