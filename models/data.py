"""Fetch and prepare the pictures that sam2_hiera_nano is trained and measured on: `python data.py`.

Debian packages come by name through apt-get, the emoji through npm; README.md lists them with their licences.
Everything lies in the cache folder, so that nothing of it enters the repository, and the same call makes it anew.
What is there already is kept. Folders made, in `CACHE/prepared`:

- emoji: 3,391 rendered emoji (200 of them held out by `scenes.emoji_split`);
- stamps, drawings: objects with transparency, cut to what is visible, in the middle of a square;
- photos: photographs for grounds and materials, the shorter side 900 px;
- held_out_stamps, held_out_grounds: photographed things and grounds that training never sees.
"""

import argparse
import hashlib
import logging
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

CACHE = Path.home() / ".cache/infer_segment_anything_2/training"
DEBIAN_PACKAGES = (
    "tuxpaint-stamps-default",
    "openclipart-png",
    "mate-backgrounds",
    "ukui-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "plasma-workspace-wallpapers",
)
NPM_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
STAMP_SIDE, DRAWING_SIDE, PHOTO_SIDE = 384, 256, 900
NO_STAMPS = ("symbols", "roadsigns", "flags")
NO_DRAWINGS = ("shapes", "decorations", "logos", "signs_and_symbols", "geography", "buttons")
MOST_DRAWINGS = 4000  # of 8,121, chosen at random
HELD_OUT_GROUNDS = ("Dune", "Wood", "GreenMeadow", "Garden", "Storm", "Aqua", "TwoWings")
# Empty once their transparency is gone, the same picture again, or a logo.
NO_GROUNDS = ("Elephants_", "Arc-Colors", "Silk", "Spring", "Waves", "MATE-Stripes", "Float-into", "GreenTraditional")
PHOTOGRAPHS = ("/nature/", "_by_")  # what a path has in it whose picture is a photograph, not a drawing ...
DRAWN_GROUNDS = ("Fossa", "Infinite-Sea", "Painting-Colors", "analogpattern", "umang")  # ... but for these
# Held-out stamps that are drawings though they do not lie in a folder of drawings.
DRAWN_STAMPS = [
    "penguin_with_spider",
    "ladybug-2",
    "ladybug",
    "snail",
    "green_fedora",
    "tophat",
    "t_glove",
    "birthday_cake",
    "cherries",
    "pressure_cooker",
    "candy_cane",
    "bunny-egg",
    "ghost",
    "grave-j",
    "dreydl-gimmel",
    "fountain",
    "towTruck",
    "fire_engine",
    "bathyscape",
]
SMALLEST, MOST_PIXELS = 48, 30_000_000  # drawings that are smaller or larger are left out
Image.MAX_IMAGE_PIXELS = None

logger = logging.getLogger(__name__)


def is_held_out(stamp: Path) -> bool:
    """Whether a stamp is kept for evaluation: the SHA-1 of its file name begins with 0 or 1."""
    return hashlib.sha1(stamp.name.encode()).hexdigest()[0] in "01"


def is_photographed(stamp: Path) -> bool:
    """Whether a held-out stamp is a photograph: evaluation pastes these on photographs."""
    return not {"cartoon", "easter"} & set(stamp.parts) and stamp.stem not in DRAWN_STAMPS


def fetch(cache: Path) -> None:
    """Download the packages into `cache/packages` and unpack them into `cache/unpacked`."""
    packages, unpacked = cache / "packages", cache / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    if missing := [name for name in DEBIAN_PACKAGES if not list(packages.glob(f"{name}_*.deb"))]:
        subprocess.run(["apt-get", "update"], check=True)
        subprocess.run(["apt-get", "download", *missing], cwd=packages, check=True)
    if not list(packages.glob("*.tgz")):
        subprocess.run(["npm", "pack", NPM_PACKAGE], cwd=packages, check=True)
    if unpacked.exists():
        return
    partial = cache / "unpacked.part"
    shutil.rmtree(partial, ignore_errors=True)
    for archive in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, partial], check=True)
    with tarfile.open(next(packages.glob("*.tgz"))) as archive:
        archive.extractall(partial / "npm", filter="data")
    partial.rename(unpacked)


def cut_out(source: Path, side: int) -> Image.Image | None:
    """The visible part of a picture with transparency in the middle of a square, or None if it is no whole thing."""
    try:
        image = Image.open(source)
        if image.mode not in ("RGBA", "LA", "P", "PA") or image.width * image.height > MOST_PIXELS:
            return None
        image = image.convert("RGBA")
    except OSError:
        return None
    visible = Image.fromarray((np.asarray(image)[..., 3] > 24).astype(np.uint8)).getbbox()
    if not visible:
        return None
    image = image.crop(visible)
    covered = (np.asarray(image)[..., 3] > 127).mean()
    if max(image.size) < SMALLEST or not 0.15 <= covered <= 0.97:
        return None
    scale = (side - 12) / max(image.size)
    width, height = (max(4, round(length * scale)) for length in image.size)
    if min(width, height) < side / 8:
        return None
    square = Image.new("RGBA", (side, side))
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return square


def write_objects(sources: Iterable[Path], folder: Path, side: int) -> None:
    """Write the things among `sources` as .webp; the name of each keeps that of its source."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    number = 0
    for source in sources:
        if (square := cut_out(source, side)) is not None:
            square.save(partial / f"{number:04}_{source.stem}.webp", lossless=True, method=0)
            number += 1
    partial.rename(folder)
    logger.info("%s: %d objects", folder.name, number)


def write_photos(sources: Iterable[Path], folder: Path) -> None:
    """Write photographs, the shorter side PHOTO_SIDE px."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    number = 0
    for source in sources:
        image = Image.open(source).convert("RGB")
        if min(image.size) < 500:
            continue
        scale = PHOTO_SIDE / min(image.size)
        width, height = (round(length * scale) for length in image.size)
        drawn = any(part in source.name for part in DRAWN_GROUNDS)
        kind = "photograph" if not drawn and any(part in str(source) for part in PHOTOGRAPHS) else "drawing"
        name = source.parents[2].name if source.parent.name == "images" else source.stem
        image.resize((width, height), Image.Resampling.LANCZOS).save(partial / f"{number:03}_{kind}_{name}.png")
        number += 1
    partial.rename(folder)
    logger.info("%s: %d photographs", folder.name, number)


def largest(folder: Path) -> Path:
    """The largest landscape file of one wallpaper of plasma-workspace-wallpapers, named WIDTHxHEIGHT."""

    def width(path: Path) -> int:
        wide, high = (int(part) for part in path.stem.split("x"))
        return wide if wide > high else 0

    return max(folder.iterdir(), key=width)


def prepare(cache: Path) -> None:
    """Make the folders of `cache/prepared` that are missing."""
    unpacked, prepared = cache / "unpacked", cache / "prepared"
    share = unpacked / "usr/share"
    stamps = sorted((share / "tuxpaint/stamps").rglob("*.png"))
    stamps = [path for path in stamps if not any(part in NO_STAMPS for part in path.parts)]
    drawings = sorted((share / "openclipart/png").rglob("*.png"))
    drawings = [path for path in drawings if not any(part in NO_DRAWINGS for part in path.parts)]
    random.Random(0).shuffle(drawings)
    pictures = [path for path in sorted(share.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    grounds = [path for path in pictures if (share / "backgrounds") in path.parents]
    grounds = [path for path in grounds if not any(name in path.name for name in NO_GROUNDS)]
    kept_out = [path for path in grounds if any(name in path.name for name in HELD_OUT_GROUNDS)]
    plasma = [largest(folder) for folder in sorted((share / "wallpapers").glob("*/contents/images"))]
    for name, sources, side in (
        ("stamps", [path for path in stamps if not is_held_out(path)], STAMP_SIDE),
        ("held_out_stamps", [path for path in stamps if is_held_out(path) and is_photographed(path)], STAMP_SIDE),
        ("drawings", drawings[:MOST_DRAWINGS], DRAWING_SIDE),
    ):
        if not (prepared / name).exists():
            write_objects(sources, prepared / name, side)
    for name, photos in (
        ("photos", [path for path in grounds if path not in kept_out]),
        ("held_out_grounds", kept_out + plasma),
    ):
        if not (prepared / name).exists():
            write_photos(photos, prepared / name)
    if not (prepared / "emoji").exists():
        (prepared / "emoji").symlink_to(unpacked / "npm/package/assets")


def main() -> None:
    """Fetch and prepare what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fetch(args.cache)
    prepare(args.cache)


if __name__ == "__main__":
    main()
