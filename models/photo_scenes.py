"""Scenes over photographs, with exact masks: a few objects, many of them large, lit and shaded to fit the ground.

`photo_scene` is for training; `held_out_scene` is what the figures for photographs are measured on.
"""

import functools
import math
import random

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
    size, n = len(canvas), len(alpha)
    angle = r.gauss(0, 8) if r.random() < 0.65 else r.uniform(0, 360)
    squeeze = r.uniform(0.5, 1) if r.random() < 0.15 else 1.0
    cx, cy = r.uniform(0.06, 0.94) * size, r.uniform(0.06, 0.94) * size
    dark = r.uniform(0.15, 0.6) if r.random() < 0.45 else 0.0
    reach = side * r.uniform(0.02, 0.14) if dark else 0.0
    half = side * 0.71 + 2 * reach + 1
    x0, y0, x1, y1 = (int(np.clip(v, 0, size)) for v in (cx - half, cy - half, cx + half + 1, cy + half + 1))
    if x1 <= x0 or y1 <= y0:
        return
    region = canvas[y0:y1, x0:x1]
    colours = lit(r, colours, alpha, region.mean((0, 1)))
    if r.random() < 0.5:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    matrix = cv2.getRotationMatrix2D((n / 2, n / 2), angle, side / n)
    matrix[:, :2] = matrix[:, :2] @ np.diag([1, squeeze])
    matrix[:, 2] = np.array([cx - x0, cy - y0]) - matrix[:, :2] @ [n / 2, n / 2]
    alpha = np.ascontiguousarray(alpha)
    a = cv2.warpAffine(alpha, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    colours = np.ascontiguousarray(colours, np.float32)
    colours = cv2.warpAffine(colours, matrix, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
    if dark:
        move = np.float32([[1, 0, sun[0] * reach], [0, 1, sun[1] * reach]])
        cast = cv2.GaussianBlur(cv2.warpAffine(a, move, a.shape[::-1]), (0, 0), max(1.0, reach * r.uniform(0.2, 0.7)))
        region *= 1 - dark * cast[..., None]
    region += (colours - region) * a[..., None]
    top[y0:y1, x0:x1][a > 0.5] = number


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
