"""Scenes over photographs, with exact masks: a few objects, many of them large, lit and shaded to fit the ground.

`photo_scene` is for training; `held_out_scene` is what the figures for photographs are measured on.
"""

import functools
import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from scenes import (
    OBJECT_SIZE,
    PREPARED,
    SMALLEST_AREA,
    FloatImage,
    Scene,
    camera,
    emoji_split,
    outlined,
    photos,
    read_object,
    restyle,
    shape_alpha,
    texture,
    training_photos,
)

Alpha = npt.NDArray[np.uint8]


@functools.cache
def objects(kind: str) -> list[str]:
    """Files of prepared objects: "stamps", "drawings", "held_out_stamps", or the emoji to train on."""
    if kind == "emoji":
        return emoji_split(str(PREPARED / "emoji"))[0]
    return sorted(str(path) for path in (PREPARED / kind).glob("*.webp"))


@functools.cache
def crowd_pool() -> list[str]:
    """What the scenes of `scenes.py` are filled with in training."""
    return objects("emoji") + 3 * objects("stamps") + objects("drawings")[:2000]


@functools.cache
def grounds() -> list[npt.NDArray[np.uint8]]:
    """Grounds to train on: photographs four times as often as drawn wallpapers."""
    names = sorted((PREPARED / "photos").glob("*.png"))
    photographs = [photo for name, photo in zip(names, training_photos(), strict=True) if "photograph" in name.name]
    return [*photos(False), *photographs, *photographs, *photographs]


@functools.cache
def held_out_grounds() -> list[npt.NDArray[np.uint8]]:
    """Photographs that training never sees, (H, W, 3) uint8."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted((PREPARED / "held_out_grounds").glob("*"))]


def crop_of(r: random.Random, photo: npt.NDArray[np.uint8], size: int, least: float = 0.5) -> FloatImage:
    """A random square of a photograph, at least the share `least` of its shorter side, as (size, size, 3)."""
    height, width = photo.shape[:2]
    side = int(r.uniform(least, 1) * min(height, width))
    y, x = r.randint(0, height - side), r.randint(0, width - side)
    square = photo[y : y + side, x : x + side]
    if r.random() < 0.5:
        square = square[:, ::-1]
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=way).astype(np.float32)


def sprite(r: random.Random, side: float) -> tuple[FloatImage, Alpha]:
    """One object for a place `side` px wide: colours (n, n, 3) and alpha (n, n)."""
    kind = r.choices(("stamps", "drawings", "emoji", "shape"), (62, 15, 11, 12))[0]
    if kind == "shape":
        n = max(8, min(OBJECT_SIZE, math.ceil(side)))
        alpha = cv2.resize(shape_alpha(r, True), (n, n), interpolation=cv2.INTER_AREA)
        colours = texture(r, n, True)
        return (outlined(r, colours, alpha, colours.mean((0, 1)) * 0.2) if r.random() < 0.15 else colours), alpha
    rgba = read_object(r.choice(objects(kind)))
    n = max(8, min(len(rgba), math.ceil(side)))
    rgba = cv2.resize(rgba, (n, n), interpolation=cv2.INTER_AREA)
    colours, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3]
    if kind in ("drawings", "emoji") and r.random() < 0.5:
        colours = restyle(r, colours, alpha)
    return colours, alpha


def lit(r: random.Random, colours: FloatImage, alpha: Alpha, around: FloatImage) -> FloatImage:
    """An object in other light: gain, cast, a slope of light, and a step towards the tones of the ground around it."""
    gain = np.float32(r.uniform(0.7, 1.25)) * np.float32([1 + r.gauss(0, 0.05) for _ in range(3)])
    colours = colours * gain + np.float32(r.uniform(-15, 15))
    if r.random() < 0.3:
        axis = np.linspace(-1, 1, len(alpha), dtype=np.float32)
        angle, depth = r.uniform(0, 2 * math.pi), r.uniform(0.1, 0.4)
        colours = colours * (1 + depth * (math.cos(angle) * axis[None] + math.sin(angle) * axis[:, None]))[..., None]
    if r.random() < 0.4 and (alpha > 127).any():
        own = colours[alpha > 127].mean(0)
        colours = colours + np.float32(r.uniform(0.1, 0.5)) * (around - own)
    return colours


@dataclass(frozen=True)
class Pose:
    """Where an object is drawn: its centre and width in pixels, turned by `angle` degrees, its height times `squeeze`."""

    x: float
    y: float
    side: float
    angle: float = 0.0
    squeeze: float = 1.0


@dataclass(frozen=True)
class Shadow:
    """How much darker a shadow makes the ground, 0 to 1, how far in pixels it falls, which way, and how blurred it is."""

    dark: float
    reach: float
    sun: tuple[float, float]
    blur: float


def window(size: int, pose: Pose, margin: float = 0.0) -> tuple[slice, slice] | None:
    """Rows and columns of a picture of `size` px that an object can touch, or None if there are none."""
    half = pose.side * 0.71 + margin + 1
    edges = (pose.x - half, pose.y - half, pose.x + half + 1, pose.y + half + 1)
    x0, y0, x1, y1 = (int(np.clip(edge, 0, size)) for edge in edges)
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def paste(
    canvas: FloatImage,
    top: npt.NDArray[np.int16],
    number: int,
    colours: FloatImage,
    alpha: Alpha,
    pose: Pose,
    shadow: Shadow | None = None,
) -> None:
    """Draw an object, colours (n, n, 3) and alpha (n, n), on the canvas, and its number on `top`, in place."""
    n = len(alpha)
    where = window(len(canvas), pose, 2 * shadow.reach if shadow else 0.0)
    if where is None:
        return
    region = canvas[where]
    shape = region.shape[1::-1]
    matrix = cv2.getRotationMatrix2D((n / 2, n / 2), pose.angle, pose.side / n)
    matrix[:, :2] = matrix[:, :2] @ np.diag([1, pose.squeeze])
    matrix[:, 2] = np.array([pose.x - where[1].start, pose.y - where[0].start]) - matrix[:, :2] @ [n / 2, n / 2]
    a = cv2.warpAffine(np.ascontiguousarray(alpha), matrix, shape, flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    colours = np.ascontiguousarray(colours, np.float32)
    colours = cv2.warpAffine(colours, matrix, shape, borderMode=cv2.BORDER_REPLICATE)
    if shadow:
        move = np.float32([[1, 0, shadow.sun[0] * shadow.reach], [0, 1, shadow.sun[1] * shadow.reach]])
        cast = cv2.GaussianBlur(cv2.warpAffine(a, move, shape), (0, 0), shadow.blur)
        region *= 1 - shadow.dark * cast[..., None]
    region += (colours - region) * a[..., None]
    top[where][a > 0.5] = number


def place(
    r: random.Random,
    canvas: FloatImage,
    top: npt.NDArray[np.int16],
    number: int,
    side: float,
    colours: FloatImage,
    alpha: Alpha,
    sun: tuple[float, float],
) -> None:
    """Draw an object `side` px wide somewhere on the canvas, with its shadow, and its number on `top`, in place."""
    size = len(canvas)
    angle = r.gauss(0, 8) if r.random() < 0.65 else r.uniform(0, 360)
    squeeze = r.uniform(0.5, 1) if r.random() < 0.15 else 1.0
    pose = Pose(r.uniform(0.06, 0.94) * size, r.uniform(0.06, 0.94) * size, side, angle, squeeze)
    dark = r.uniform(0.15, 0.6) if r.random() < 0.45 else 0.0
    reach = side * r.uniform(0.02, 0.14) if dark else 0.0
    where = window(size, pose, 2 * reach)
    if where is None:
        return
    colours = lit(r, colours, alpha, canvas[where].mean((0, 1)))
    if r.random() < 0.5:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    shadow = Shadow(dark, reach, sun, max(1.0, reach * r.uniform(0.2, 0.7))) if dark else None
    paste(canvas, top, number, colours, alpha, pose, shadow)


def visible_masks(top: npt.NDArray[np.int16], least: float) -> npt.NDArray[np.bool_]:
    """(N, size, size): the masks of the objects on `top` of which more than `least` px are visible."""
    areas = np.bincount(top.ravel())
    return np.array([top == number for number in range(1, len(areas)) if areas[number] > least], bool)


def photo_scene(seed: int, size: int) -> Scene:
    """A photograph, rarely another ground, with 1 to 8 objects, the first of them often large."""
    r = random.Random(seed)
    while True:
        if r.random() < 0.85:
            canvas = crop_of(r, r.choice(grounds()), size)
        else:
            canvas = np.ascontiguousarray(texture(r, size, True), np.float32)
        top, turn = np.zeros((size, size), np.int16), r.uniform(0, 2 * math.pi)
        count = r.choices((1, 2, 3, 4, r.randint(5, 8)), (20, 25, 20, 15, 20))[0]
        for number in range(1, count + 1):
            share = math.exp(r.uniform(math.log(0.25 if number == 1 else 0.1), math.log(1.0 if number == 1 else 0.7)))
            made = sprite(r, size * share)
            place(r, canvas, top, number, size * share, *made, (math.cos(turn), math.sin(turn)))
        masks = visible_masks(top, size * size * SMALLEST_AREA)
        if len(masks):
            break
    if r.random() < 0.2:
        rng = np.random.default_rng(seed)
        canvas += rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(r.uniform(2, 8))
    return Scene(np.clip(camera(r, canvas), 0, 255).astype(np.uint8), masks)


def held_out_scene(seed: int, size: int) -> Scene:
    """Evaluation: 1 to 3 photographed things that training never saw, 18% to 70% of the picture wide, on a photograph
    that it never saw either."""
    r = random.Random(seed)
    things = objects("held_out_stamps")
    while True:
        canvas = crop_of(r, r.choice(held_out_grounds()), size)
        top, turn = np.zeros((size, size), np.int16), r.uniform(0, 2 * math.pi)
        for number in range(1, r.randint(1, 3) + 1):
            side = size * math.exp(r.uniform(math.log(0.18), math.log(0.7)))
            rgba = read_object(r.choice(things))
            n = min(len(rgba), math.ceil(side))
            rgba = cv2.resize(rgba, (n, n), interpolation=cv2.INTER_AREA)
            place(r, canvas, top, number, side, rgba[..., :3].astype(np.float32), rgba[..., 3], (math.cos(turn), 0.5))
        masks = visible_masks(top, size * size * SMALLEST_AREA)
        if len(masks):
            return Scene(np.clip(canvas, 0, 255).astype(np.uint8), masks)
