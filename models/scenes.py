"""Scenes with exact masks, composed on the fly: what sam2_hiera_nano is trained and evaluated on.

Objects are rendered emoji with alpha (npm package @lobehub/fluent-emoji-3d, MIT) and procedural shapes. Their
colours and the backgrounds are flat, gradients, stripes, checks, smooth noise and crops of sample photographs
of scikit-image and scikit-learn. Later objects hide earlier ones, so a mask is what remains visible of its
object.

There are four kinds of scene here, and those over photographs in `photo_scenes.py`:

- "plain" (training and evaluation) is what the figures of the README are measured on;
- "wide" (training) adds drawing styles, thin shapes, crowded pictures, camera artefacts and grey pictures;
- "chalk" (training) draws objects with one pen in the colour of their ground: nothing but their outlines sets them off;
- "sketch" (evaluation) is a drawing style that training never shows: ink lines and hatching on paper.
"""

import functools
import glob
import math
import os
import random
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from data import CACHE
from PIL import Image

PREPARED = CACHE / "prepared"
KINDS = ("plain", "wide", "chalk", "sketch")
HELD_OUT = 200
OBJECT_SIZE = 256  # pixels a side of an emoji in the package, and of a shape before it is placed
SMALLEST_AREA = 0.0012  # objects of which less than this share of the picture is visible are not prompted for

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A picture and its visible objects.

    Attributes:
        image: (size, size, 3) uint8, RGB.
        masks: (N, size, size) bool, what is visible of each object; N >= 1.
    """

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]


@functools.cache
def emoji_split(folder: str) -> tuple[list[str], list[str]]:
    """Return (training files, held-out files) of a folder of .webp; the same 200 are always held out."""
    files = sorted(glob.glob(os.path.join(folder, "*.webp")))
    if len(files) <= HELD_OUT:
        raise ValueError(f"{folder} holds {len(files)} .webp files, expected more than {HELD_OUT}: see README.md")
    random.Random(0).shuffle(files)
    return files[HELD_OUT:], files[:HELD_OUT]


@functools.cache
def training_photos() -> list[npt.NDArray[np.uint8]]:
    """The photographs that data.py prepared for training, (H, W, 3) uint8."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted((PREPARED / "photos").glob("*.png"))]


@functools.cache
def photos(held_out: bool) -> list[npt.NDArray[np.uint8]]:
    """Sample photographs, (H, W, 3) uint8.

    Three of them serve as pictures to try the model on, so only scenes for evaluation have crops of them.
    """
    import sklearn.datasets
    from skimage import data

    pictures = [
        data.rocket(),
        data.retina()[300:1100, 300:1100],
        data.hubble_deep_field(),
        data.immunohistochemistry(),
    ]
    pictures += [cv2.cvtColor(load(), cv2.COLOR_GRAY2RGB) for load in (data.brick, data.grass, data.gravel)]
    pictures += list(sklearn.datasets.load_sample_images().images)
    if held_out:
        pictures += [data.astronaut(), data.chelsea(), data.coffee()]
    else:
        pictures += training_photos()
    return [np.ascontiguousarray(photo[..., :3]) for photo in pictures]


@functools.lru_cache(maxsize=4096)
def read_object(path: str) -> npt.NDArray[np.uint8]:
    """(n, n, 4) uint8: the colours and alpha of a prepared object."""
    return np.asarray(Image.open(path).convert("RGBA"))


def _colour(r: random.Random) -> FloatImage:
    return np.array([r.uniform(0, 255) for _ in range(3)], np.float32)


def _flat(r: random.Random, n: int) -> FloatImage:
    return np.tile(_colour(r), (n, n, 1))


def _smooth_noise(r: random.Random, n: int) -> FloatImage:
    """A few octaves of noise between two colours: clouds, stone, water."""
    rng = np.random.default_rng(r.getrandbits(32))
    total, weight = np.zeros((n, n), np.float32), 0.0
    cells, fade = r.randint(2, 6), r.uniform(0.4, 0.8)
    for octave in range(r.randint(2, 5)):
        grid = rng.random((min(cells * 2**octave, n),) * 2, dtype=np.float32)
        total += fade**octave * cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC)
        weight += fade**octave
    t = np.clip((total / weight - 0.5) * r.uniform(1, 3) + 0.5, 0, 1)[..., None]
    return _colour(r) * (1 - t) + _colour(r) * t


def texture(r: random.Random, n: int, wide: bool) -> FloatImage:
    """(n, n, 3) float32, 0..255: flat, gradient, photograph, stripes, checks; if `wide` also smooth noise."""
    kind = r.random()
    if wide and r.random() < 0.15:
        return _smooth_noise(r, n)
    if kind < 0.25:
        return _flat(r, n)
    angle = r.uniform(0, 2 * math.pi)
    if 0.5 <= kind < 0.85:
        photo = r.choice(photos(not wide))
        h, w = photo.shape[:2]
        c = int(r.uniform(0.25, 0.95) * min(h, w))
        y, x = r.randint(0, h - c), r.randint(0, w - c)
        crop = cv2.resize(
            photo[y : y + c, x : x + c], (n, n), interpolation=cv2.INTER_AREA if c > n else cv2.INTER_LINEAR
        )
        if r.random() < 0.5:
            crop = cv2.GaussianBlur(crop, (0, 0), r.uniform(1, 8))
        if r.random() < 0.5:
            crop = crop[..., r.sample([0, 1, 2], 3)]
        return crop.astype(np.float32)
    axis = np.arange(n, dtype=np.float32) / n
    ramp = math.cos(angle) * axis[None] + math.sin(angle) * axis[:, None]
    a, b = _colour(r), _colour(r)
    if kind < 0.5:
        t = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
        return a + (b - a) * t
    m = r.randint(2, 24)
    if r.random() < 0.5:
        on = (ramp * m % 1) > 0.5
    else:
        cell = (axis * m).astype(np.int32)
        on = ((cell[None] + cell[:, None]) % 2) > 0
    return np.where(on[..., None], a, b)


def _polygon(alpha: npt.NDArray[np.uint8], points: npt.NDArray) -> npt.NDArray[np.uint8]:
    return cv2.fillPoly(alpha, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA)


def shape_alpha(r: random.Random, wide: bool) -> npt.NDArray[np.uint8]:
    """(256, 256) uint8 alpha: ellipse, polygon, rectangle, blob; `wide` adds ring, star, stroke, crescent."""
    n = OBJECT_SIZE
    alpha, kind, c = np.zeros((n, n), np.uint8), r.random(), n // 2
    if wide and r.random() < 0.3:
        if kind < 0.25:
            width = r.randint(8, 40)
            axes = (int(n * r.uniform(0.2, 0.38)), int(n * r.uniform(0.2, 0.38)))
            return cv2.ellipse(
                alpha,
                (c, c),
                axes,
                r.uniform(0, 180),
                0,
                r.choice([360, r.uniform(120, 300)]),
                255,
                width,
                cv2.LINE_AA,
            )
        if kind < 0.5:
            tips, inner = r.randint(4, 9), r.uniform(0.15, 0.35)
            angles = np.linspace(0, 2 * math.pi, 2 * tips, endpoint=False)
            radii = np.where(np.arange(2 * tips) % 2, inner, 0.47) * n
            return _polygon(alpha, np.stack([c + np.cos(angles) * radii, c + np.sin(angles) * radii], 1))
        if kind < 0.8:
            points = np.array([[r.uniform(0.12, 0.88) * n, r.uniform(0.12, 0.88) * n] for _ in range(r.randint(2, 4))])
            return cv2.polylines(alpha, [points.astype(np.int32)], False, 255, r.randint(8, 40), cv2.LINE_AA)
        cv2.circle(alpha, (c, c), int(n * 0.45), 255, -1, cv2.LINE_AA)
        return cv2.circle(
            alpha, (c + int(n * r.uniform(0.12, 0.3)), c), int(n * r.uniform(0.3, 0.42)), 0, -1, cv2.LINE_AA
        )
    if kind < 0.3:
        axes = (int(n * r.uniform(0.2, 0.48)), int(n * r.uniform(0.2, 0.48)))
        return cv2.ellipse(alpha, (c, c), axes, r.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    if kind < 0.55:
        corners = r.randint(3, 9)
        angles = np.sort([r.uniform(0, 2 * math.pi) for _ in range(corners)])
        radii = np.array([r.uniform(0.2, 0.48) * n for _ in range(corners)])
    elif kind < 0.8:
        sides = (n * r.uniform(0.2, 0.65), n * r.uniform(0.2, 0.65))
        return _polygon(alpha, cv2.boxPoints(((c, c), sides, r.uniform(0, 180))))
    else:
        angles = np.linspace(0, 2 * math.pi, 90, endpoint=False)
        radii = n * 0.32 + sum(
            n * 0.05 * r.uniform(-1, 1) * np.cos(f * angles + r.uniform(0, 6.28)) for f in range(2, 7)
        )
    return _polygon(alpha, np.stack([c + np.cos(angles) * radii, c + np.sin(angles) * radii], 1))


def outlined(r: random.Random, rgb: FloatImage, alpha: npt.NDArray[np.uint8], ink: FloatImage) -> FloatImage:
    """Colour a band inside the border of the object: the object keeps its mask."""
    width = r.randint(1, max(1, min(5, len(alpha) // 24))) * 2 + 1
    inside = cv2.erode(alpha, np.ones((width, width), np.uint8), borderValue=0)
    return np.where(inside[..., None] > 127, rgb, ink)


def _line_drawing(
    r: random.Random, rgb: FloatImage, alpha: npt.NDArray[np.uint8], fill: FloatImage, pen: FloatImage
) -> FloatImage:
    """Lines where the tones of the object meet and along its outline, in the colour `pen` on the colour `fill`, (3,)."""
    n = len(alpha)
    tones = np.floor(cv2.GaussianBlur(rgb.mean(2), (0, 0), 0.5 + n / 120) / 255 * r.randint(2, 6))
    line = np.ones((r.randint(2, max(2, min(5, n // 40))),) * 2, np.uint8)
    lines = cv2.morphologyEx(tones.astype(np.uint8), cv2.MORPH_GRADIENT, line) > 0
    return outlined(r, np.where(lines[..., None], pen, fill), alpha, pen)


def _ground_and_pen(r: random.Random) -> tuple[FloatImage, FloatImage]:
    """Two colours (3,) for drawing with, as different as a pen's must be; dark on light is kept for evaluation."""
    while True:
        ground, pen = _colour(r), _colour(r)
        if abs(pen.mean() - ground.mean()) > 50 and not (ground.mean() > 190 and pen.mean() < 100):
            return ground, pen


def restyle(r: random.Random, rgb: FloatImage, alpha: npt.NDArray[np.uint8]) -> FloatImage:
    """Training only: repaint a rendered object, (n, n, 3), in another manner, or leave it."""
    kind, n = r.random(), len(alpha)
    if kind < 0.45:
        return rgb
    if kind < 0.55:
        fill = _colour(r) if r.random() < 0.5 else 255 - 0.2 * _colour(r)
        return _line_drawing(r, rgb, alpha, fill, _colour(r) * r.choice([0.2, 1.0]))
    if kind < 0.7:  # cartoon: few tones, often with an outline
        step = 255 / r.randint(2, 5)
        rgb = np.round(cv2.GaussianBlur(rgb, (0, 0), 1 + n / 100) / step) * step
        return outlined(r, rgb, alpha, _colour(r) * r.choice([0.15, 1.0])) if r.random() < 0.6 else rgb
    if kind < 0.8:  # outline only
        return outlined(r, rgb, alpha, _colour(r) * r.choice([0.15, 1.0]))
    if kind < 0.93:  # the silhouette in a material, lightly shaded by the original
        shade = rgb.mean(2, keepdims=True) / 255 - 0.5
        return texture(r, n, True) + shade * r.uniform(0, 160)
    if kind < 0.97:
        return np.repeat(rgb.mean(2, keepdims=True), 3, 2)
    return rgb @ (
        np.eye(3, dtype=np.float32) + np.random.default_rng(r.getrandbits(32)).normal(0, 0.3, (3, 3)).astype(np.float32)
    )


def _sketched(
    r: random.Random, rgb: FloatImage, alpha: npt.NDArray[np.uint8], paper: FloatImage, pen: FloatImage
) -> FloatImage:
    """Evaluation only: lines where the rendering has edges, hatching where it is dark, in the colour `pen` on paper."""
    n = len(alpha)
    grey = cv2.GaussianBlur(rgb.mean(2), (0, 0), 0.8)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    axis = np.arange(n, dtype=np.float32)
    hatch = (axis[None] + axis[:, None] * r.choice([-1, 1])) % r.randint(4, 7) < 1.2
    ink = np.maximum(np.clip(edges / 90 - 0.4, 0, 1), 0.8 * (hatch & (grey < 120)))
    ink = np.maximum(
        ink,
        alpha.astype(np.float32) / 255 - cv2.erode(alpha, np.ones((3, 3), np.uint8), borderValue=0) / 255.0,
    )
    return (paper + r.uniform(-12, 12)) * (1 - ink[..., None]) + pen * ink[..., None]


def _sprite(
    r: random.Random, pool: list[str], side: float, kind: str, easy: bool, paper: FloatImage, pen: FloatImage
) -> tuple[FloatImage, npt.NDArray[np.uint8]]:
    """One object, at most 256 px a side: colours (n, n, 3) float32 and alpha (n, n) uint8; drawings are of `pen` on `paper`."""
    n = max(8, min(OBJECT_SIZE, math.ceil(side)))
    if not easy and r.random() < 0.65:
        rgba = cv2.resize(read_object(r.choice(pool)), (n, n), interpolation=cv2.INTER_AREA)
        rgb, alpha, drawn = rgba[..., :3].astype(np.float32), rgba[..., 3], True
    else:
        alpha = cv2.resize(shape_alpha(r, kind == "wide"), (n, n), interpolation=cv2.INTER_AREA)
        rgb, drawn = _flat(r, n) if easy else texture(r, n, kind == "wide"), False
    if kind == "sketch":
        rgb = _sketched(r, rgb, alpha, paper, pen)
    elif kind == "chalk":
        rgb = _line_drawing(r, rgb, alpha, paper + np.float32(r.uniform(-15, 15)), pen)
    elif kind == "wide" and drawn:
        rgb = restyle(r, rgb, alpha)
    elif kind == "wide" and r.random() < 0.15:
        rgb = outlined(r, rgb, alpha, _colour(r) * r.choice([0.15, 1.0]))
    if r.random() < 0.5:
        rgb, alpha = rgb[:, ::-1], alpha[:, ::-1]
    if kind in ("plain", "wide"):
        rgb = rgb * np.float32(r.uniform(0.7, 1.2)) + np.float32(r.uniform(-20, 20))
    return np.ascontiguousarray(rgb, np.float32), np.ascontiguousarray(alpha)


def _paste(
    r: random.Random,
    canvas: FloatImage,
    top: npt.NDArray[np.int16],
    number: int,
    side: float,
    squeeze: float,
    rgb: FloatImage,
    alpha: npt.NDArray[np.uint8],
) -> None:
    """Draw an object `side` pixels wide at a random place of the canvas, and its number on `top`, in place.

    Only the object's own rectangle is touched: blending the whole picture once per object took longer than a
    training step.
    """
    size, n = len(canvas), len(alpha)
    angle = r.uniform(-40, 40) if r.random() < 0.7 else r.uniform(0, 360)
    cx, cy = r.uniform(0, size), r.uniform(0, size)
    shadow = r.random() < 0.3
    half = side * 0.71 + (20 if shadow else 1)
    x0, y0, x1, y1 = (int(np.clip(v, 0, size)) for v in (cx - half, cy - half, cx + half + 1, cy + half + 1))
    if x1 <= x0 or y1 <= y0:
        return
    matrix = cv2.getRotationMatrix2D((n / 2, n / 2), angle, side / n)
    matrix[:, :2] = matrix[:, :2] @ np.diag([1, squeeze])
    matrix[:, 2] = np.array([cx - x0, cy - y0]) - matrix[:, :2] @ [n / 2, n / 2]
    a = cv2.warpAffine(alpha, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    colours = cv2.warpAffine(rgb, matrix, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
    region = canvas[y0:y1, x0:x1]
    if shadow:
        dark = cv2.GaussianBlur(cv2.warpAffine(a, np.float32([[1, 0, 4], [0, 1, 4]]), a.shape[::-1]), (0, 0), 5)
        region *= 1 - 0.4 * dark[..., None]
    region += (colours - region) * a[..., None]
    top[y0:y1, x0:x1][a > 0.5] = number


def broken_pixels(r: random.Random, image: FloatImage, share: float) -> FloatImage:
    """The image with about a share of its pixels hot or dead, or of any colour."""
    rng = np.random.default_rng(r.getrandbits(32))
    broken = rng.random(image.shape[:2]) < share
    image = image.copy()
    image[broken] = (
        rng.choice([0, 255], (broken.sum(), 1)) if r.random() < 0.5 else rng.uniform(0, 255, (broken.sum(), 3))
    )
    return image


def camera(r: random.Random, image: FloatImage) -> FloatImage:
    """Training only: exposure, grey pictures, lost resolution, blocks of JPEG, pixels that are hot or dead."""
    if r.random() < 0.2:
        image = 255 * np.clip(image / 255, 0, 1) ** np.float32(r.uniform(0.6, 1.7))
    if r.random() < 0.15:
        image = (image - 128) * np.float32(r.uniform(0.5, 1.1)) + 128 + np.float32(r.uniform(-30, 30))
    if r.random() < 0.06:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if r.random() < 0.08:
        small = cv2.resize(image, None, fx=(scale := r.uniform(0.4, 0.9)), fy=scale, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if r.random() < 0.15:
        jpeg = cv2.imencode(
            ".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, r.randint(25, 90)]
        )[1]
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR).astype(np.float32)
    if r.random() < 0.25:
        image = broken_pixels(r, image, 10 ** r.uniform(-4, -1.8))
    return image


def scene(seed: int, size: int, pool: list[str], kind: str = "plain", easy: bool = False) -> Scene:
    """Compose a scene of 2 to 14 objects, each 7% to 70% of the picture wide.

    Args:
        seed: the same seed gives the same scene.
        size: side of the picture in pixels.
        pool: emoji files to draw from, one of the two lists of `emoji_split`.
        kind: one of KINDS.
        easy: few, large and flat-coloured objects, for the beginning of training.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    r = random.Random(seed)
    rng = np.random.default_rng(seed)
    wide, paper = kind == "wide", np.float32([r.uniform(225, 250), r.uniform(220, 245), r.uniform(205, 240)])
    pen = np.float32([35, 35, 35])
    if kind == "chalk":
        paper, pen = _ground_and_pen(r)
    floor = max(size * size * SMALLEST_AREA, 40)
    while True:
        if kind in ("sketch", "chalk"):
            canvas = np.tile(paper, (size, size, 1)) + rng.normal(0, 3, (size, size, 1)).astype(np.float32)
        else:
            canvas = _flat(r, size) if easy else texture(r, size, wide)
        canvas = np.ascontiguousarray(canvas, np.float32)
        top = np.zeros((size, size), np.int16)
        crowd = wide and r.random() < 0.08
        count = r.randint(2, 5) if easy else r.randint(12, 28) if crowd else r.randint(2, 14)
        for number in range(1, count + 1):
            share = (
                r.uniform(0.25, 0.6) if easy else math.exp(r.uniform(math.log(0.07), math.log(0.25 if crowd else 0.7)))
            )
            squeeze = r.uniform(0.3, 1) if wide and r.random() < 0.2 else 1.0
            _paste(
                r,
                canvas,
                top,
                number,
                size * share,
                squeeze,
                *_sprite(r, pool, size * share, kind, easy, paper, pen),
            )
        areas = np.bincount(top.ravel(), minlength=count + 1)
        visible = [number for number in range(1, count + 1) if areas[number] > floor]
        if visible:
            break
    if r.random() < 0.3:
        canvas += rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(r.uniform(2, 12))
    if r.random() < 0.2:
        canvas = cv2.GaussianBlur(canvas, (0, 0), r.uniform(0.5, 1.2))
    if wide:
        canvas = camera(r, canvas)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), np.stack([top == number for number in visible]))


def inner_point(mask: npt.NDArray[np.bool_], r: random.Random, deep: bool = True) -> tuple[float, float]:
    """(x, y) in pixels of a random pixel's centre in a mask (H, W), away from its border if `deep`.

    An empty mask gives (0.5, 0.5).
    """
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    if w == 0:
        return 0.5, 0.5
    crop = mask[y : y + h, x : x + w]
    if deep:
        distance = cv2.distanceTransform(np.pad(crop, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        crop = distance > 0.25 * distance.max()
    inside = np.flatnonzero(crop)
    row, column = divmod(int(inside[r.randrange(len(inside))]), w)
    return x + column + 0.5, y + row + 0.5


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels of a mask (H, W); x1 and y1 lie one past the last pixel."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + w, y + h
