"""How values, paths and faults stand in a message: short enough to read, and never a raw error of a library below."""

from __future__ import annotations

import os
import re
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Characters of a path, or of what a server said, that a message shows.
MAX_SHOWN = 300

#: tensor([60, 25]), [array([60, 25])], [np.float32(60.0)], and [60 25] or [60. 25.], without commas.
_ARRAY = re.compile(r"\b(tensor|array|np\.\w+)\(|\[[^],]*[\d.]\s+-?[\d.]")

_repr = reprlib.Repr()
_repr.maxstring = 80


def short(value: Any) -> str:
    """The repr of `value`, cut where it is long or deeply nested."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def shown(text: Path | str) -> str:
    """A path, or what a server said: cut where it is long, what does not print escaped."""
    text = str(text)
    text = text if text.isprintable() else repr(text)[1:-1]
    half = MAX_SHOWN // 2 - 10
    return text if len(text) <= MAX_SHOWN else f"{text[:half]}…{text[-half:]}"


def listed(numbers: Iterable[float]) -> str:
    """Numbers as a user would write them, without the digits that float32 adds: [1, 2.5]."""
    return "[" + ", ".join(f"{v:g}" for v in numbers) + "]"


def in_short(error: BaseException) -> str:
    """What an error says, on one line and no longer than one reads."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
    return shown(" ".join(text.split()))


def not_accepted(name: str, value: Any, accepted: str) -> str:
    """The sentence for a value that is refused."""
    return f"{name}: {short(value)} is not accepted; accepted is {accepted}{array_hint(value)}."


def needs_opencv(name: str, value: float) -> str:
    """The sentence for a value that needs OpenCV where there is none."""
    return f"{name}: {value:g} is not accepted without OpenCV (pip install opencv-python-headless); accepted is 0."


def array_hint(value: Any) -> str:
    """What helps, as the end of a sentence, where a text is what str() makes of an array or a tensor; else empty."""
    is_array = isinstance(value, str) and _ARRAY.search(value[:1000])
    return "; of an array or a tensor pass .tolist()" if is_array else ""


def fault_of_file(path: Path) -> str:
    """Why `path` cannot be read as a file, as the end of a sentence that begins with it; empty if it can."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL in it
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not stat.S_ISREG(mode):  # a pipe or a device, of which reading may never end
        return "is no ordinary file"
    return "" if os.access(path, os.R_OK) else "may not be read"
