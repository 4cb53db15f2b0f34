"""Clips with exact masks: objects that move, turn, grow, hide each other, leave and come back, over photographs.

`clip` is for training; `held_out_clip` is what following through videos is measured on.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from photo_scenes import (
    Alpha,
    Pose,
    Shadow,
    crop_of,
    grounds,
    held_out_grounds,
    lit,
    objects,
    paste,
    sprite,
)
from scenes import FloatImage, camera, read_object, texture

SMALLEST = 0.001  # share of the picture; an object with less of it visible counts as hidden
SMALLEST_AT_FIRST = 0.004  # the same in the first frame, for an object that is to be followed
MARGIN = 1.4  # of the ground's side over the picture's: room for the camera to move


@dataclass(frozen=True)
class Clip:
    """Frames and what is visible in them of each object.

    Attributes:
        images: (T, size, size, 3) uint8, RGB.
        masks: (T, N, size, size) bool; each object is visible in the first frame, N >= 1.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Thing:
    """An object with the course it takes.

    Attributes:
        colours, alpha: (n, n, 3) and (n, n).
        pose: where it is at a time from 0 to 1.
        shadow: what it throws on the ground, or None.
    """

    colours: FloatImage
    alpha: Alpha
    pose: Callable[[float], Pose]
    shadow: Shadow | None


def course(r: random.Random, size: int, side: float, speed: float, through: tuple[float, float] | None) -> Callable:
    """A way through a picture of `size` px: straight with a swing, turning, growing, squeezed as if it turned away.

    Args:
        side: px, the object's width at the start.
        speed: how far it goes in the clip, as a share of the picture.
        through: a place (x, y) in px that it passes midway; None for any.
    """
    way, swing_way = r.uniform(0, 2 * math.pi), r.uniform(0, 2 * math.pi)
    distance = size * speed * r.uniform(0.2, 1)
    x, y = through or (r.uniform(0.2, 0.8) * size, r.uniform(0.2, 0.8) * size)
    middle = 0.5 if through else 0.0
    swing, beats = size * r.uniform(0, 0.06) * min(1.0, speed * 2), r.uniform(0.5, 2)
    returns = r.random() < 0.25  # it turns round halfway
    angle, turn = (r.gauss(0, 10) if r.random() < 0.65 else r.uniform(0, 360)), r.gauss(0, 25) * min(1.0, speed * 2)
    growth = r.gauss(0, 0.25) * min(1.0, speed * 2)
    depth, phase = (r.uniform(0.1, 0.5) if r.random() < 0.3 else 0.0), r.uniform(0, 2 * math.pi)

    def pose(t: float) -> Pose:
        gone = (1 - abs(2 * t - 1)) if returns else t - middle
        sway = swing * math.sin(2 * math.pi * beats * t)
        return Pose(
            x + distance * gone * math.cos(way) + sway * math.cos(swing_way),
            y + distance * gone * math.sin(way) + sway * math.sin(swing_way),
            max(6.0, side * math.exp(growth * t)),
            angle + turn * t,
            1 - depth * (0.5 + 0.5 * math.sin(phase + 2 * math.pi * beats * t)),
        )

    return pose


def film(r: random.Random, ground: FloatImage, things: list[Thing], size: int, frames: int) -> Clip:
    """Draw the frames: the camera moves over the ground, things in front of each other in their order."""
    room = len(ground) - size
    start, end = ((r.uniform(0, room), r.uniform(0, room)) for _ in range(2))
    if r.random() < 0.4:
        end = start  # the camera stands still
    images, masks = [], []
    for k in range(frames):
        t = k / max(1, frames - 1)
        dx, dy = (a + (b - a) * t for a, b in zip(start, end, strict=True))
        view = np.float32([[1, 0, -dx], [0, 1, -dy]])
        canvas = cv2.warpAffine(ground, view, (size, size), flags=cv2.INTER_LINEAR)
        top = np.zeros((size, size), np.int16)
        for number, thing in enumerate(things, 1):
            paste(canvas, top, number, thing.colours, thing.alpha, thing.pose(t), thing.shadow)
        images.append(canvas)
        masks.append([top == number for number in range(1, len(things) + 1)])
    return Clip(np.stack(images), np.array(masks))


def visible_from_the_start(made: Clip, least: float) -> Clip:
    """The clip with only those objects of which more than `least` px are visible in the first frame."""
    return Clip(made.images, made.masks[:, made.masks[0].sum((1, 2)) > least])


def clip(seed: int, size: int, frames: int) -> Clip:
    """1 to 5 objects over a photograph, rarely another ground; the frames like those of one camera."""
    r = random.Random(seed)
    side = round(size * MARGIN)
    while True:
        if r.random() < 0.85:
            ground = crop_of(r, r.choice(grounds()), side)
        else:
            ground = np.ascontiguousarray(texture(r, side, True), np.float32)
        turn, speed = r.uniform(0, 2 * math.pi), r.choice((0.1, 0.3, 0.6, 1.0))
        things: list[Thing] = []
        for number in range(r.choices((1, 2, 3, 4, 5), (20, 30, 25, 15, 10))[0]):
            width = size * math.exp(r.uniform(math.log(0.18 if number == 0 else 0.1), math.log(0.7)))
            colours, alpha = sprite(r, width)
            colours = lit(r, colours, alpha, ground.mean((0, 1)))
            if r.random() < 0.5:
                colours, alpha = colours[:, ::-1], alpha[:, ::-1]
            # Half of the later ones cross the way of an earlier one.
            met = r.choice(things).pose(0.5) if things and r.random() < 0.5 else None
            dark, reach = r.uniform(0.15, 0.6), width * r.uniform(0.02, 0.14)
            sun = (math.cos(turn), math.sin(turn))
            shadow = Shadow(dark, reach, sun, max(1.0, 0.4 * reach)) if r.random() < 0.4 else None
            way = course(r, size, width, speed, (met.x, met.y) if met else None)
            things.append(Thing(colours, alpha, way, shadow))
        made = visible_from_the_start(film(r, ground, things, size, frames), size * size * SMALLEST_AT_FIRST)
        if made.masks.shape[1]:
            break
    noise = r.uniform(2, 8) if r.random() < 0.3 else 0.0
    rng, look = np.random.default_rng(seed), r.getrandbits(32)
    images = []
    for image in made.images:
        image = camera(random.Random(look), image)  # the same faults in every frame
        if noise:
            image = image + rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(noise)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    order = slice(None, None, -1) if r.random() < 0.3 else slice(None)
    shown = np.stack(images)
    turned = Clip(np.ascontiguousarray(shown[order]), np.ascontiguousarray(made.masks[order]))
    kept = visible_from_the_start(turned, size * size * SMALLEST_AT_FIRST)
    return kept if kept.masks.shape[1] else Clip(shown, made.masks)


def held_out_clip(seed: int, size: int, frames: int) -> Clip:
    """Evaluation: 1 to 3 photographed things that training never saw, on a photograph that it never saw either."""
    r = random.Random(seed)
    stamps = objects("held_out_stamps")
    while True:
        ground = crop_of(r, r.choice(held_out_grounds()), round(size * MARGIN))
        things: list[Thing] = []
        for _ in range(r.randint(1, 3)):
            width = size * math.exp(r.uniform(math.log(0.18), math.log(0.6)))
            rgba = read_object(r.choice(stamps))
            n = min(len(rgba), math.ceil(width))
            rgba = cv2.resize(rgba, (n, n), interpolation=cv2.INTER_AREA)
            met = r.choice(things).pose(0.5) if things and r.random() < 0.5 else None
            way = course(r, size, width, 0.8, (met.x, met.y) if met else None)
            things.append(Thing(rgba[..., :3].astype(np.float32), rgba[..., 3], way, None))
        made = visible_from_the_start(film(r, ground, things, size, frames), size * size * SMALLEST_AT_FIRST)
        if made.masks.shape[1]:
            return Clip(np.clip(made.images, 0, 255).astype(np.uint8), made.masks)
