"""TIFF files that readers of images get wrong."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

#: Tags of TIFF 6.0, and of PlanarConfiguration the value for bands that are stored one after the other.
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 258, 277, 284
ONE_AFTER_THE_OTHER = 2
#: Bytes 2 and 3 of a file of BigTIFF, in either order.
BIG = (b"\x2b\x00", b"\x00\x2b")


def refuse_bands_apart(path: str | os.PathLike[str]) -> None:
    """Raise ValueError where a file is a TIFF of several bands of more than 8 bits that are stored one after the other.

    GDAL's INTERLEAVE=BAND writes them so. OpenCV (4.12) and Pillow (13.0) read such files without a word, and mix the bands.
    What cannot be read is left to them.
    """
    tags: dict[int, Any] = {}
    with suppress(OSError, ValueError, SyntaxError, TypeError, struct.error), open(path, "rb") as file:
        header = file.read(8)
        directory = ImageFileDirectory_v2(header + (file.read(8) if header[2:4] in BIG else b""))
        file.seek(directory.next)
        directory.load(file)
        tags = dict(directory)
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    if (
        tags.get(PLANAR_CONFIGURATION) == ONE_AFTER_THE_OTHER
        and tags.get(SAMPLES_PER_PIXEL, 1) > 1
        and max(bits if isinstance(bits, tuple) else (bits,)) > 8
    ):
        raise ValueError(
            f"{os.path.basename(path)} is a TIFF whose bands of more than 8 bits are stored one after the other "
            "(PlanarConfiguration 2); accepted is one that stores them together, or its array, read with tifffile or GDAL."
        )
