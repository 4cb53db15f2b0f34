"""What a file of weights holds: it is read as data, never as code, and refused where it is damaged or something else."""

from __future__ import annotations

import logging
import mmap
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .catalogue import CATALOGUE
from .checkpoints import CheckpointError, is_of_the_catalogue
from .memory import as_memory_error
from .messages import fault_of_file, shown
from .tensor_names import CONTAINERS, state_dict_in, why_foreign, without_prefixes

logger = logging.getLogger(__name__)

#: The largest released weights have 898 MB, some four times that with an optimizer's state.
MAX_UNPACKED_BYTES = 16 << 30
_ACCEPTED = "the path of a .pt file (or .safetensors, .ckpt) with the weights of a SAM 2 model, or empty"
_BEGINNING_OF_A_ZIP = b"PK\3\4"
# The number with which torch.save began before 1.6, and begins with _use_new_zipfile_serialization=False, behind the two
# bytes that say which pickle follows.
_BEGINNING_OF_AN_OLD_FILE = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class _Ignored:
    """Stands for an object beside the weights that is not needed: it takes whatever comes and keeps nothing."""

    def __new__(cls, *args: object) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition(".")
    return type(name, (_Ignored,), {"__module__": module})


# What training scripts keep beside the weights and torch does not read: a best score as a NumPy scalar, the options of the
# command line. None of these is made: of NumPy or argparse nothing runs.
_STAND_INS: list[Any] = [
    _stand_in(path)
    for path in (
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",  # NumPy 1
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",  # Python 3.13
        "pathlib._local.WindowsPath",
    )
]


def check_weights_file(weights: Path) -> None:
    """CheckpointError where there is no file that can be read."""
    fault = fault_of_file(weights)
    if fault:
        raise refused(weights, fault)


def read_weights(weights: Path) -> dict[str, Tensor]:
    """The state dict in a file that torch.save or safetensors wrote, alone or where training scripts put it, by the model's
    own names.

    Nothing but tensors is unpickled. Where the file has checksums, which is where torch.save writes a zip archive, every part
    is compared with its own, which torch itself does not do: weights of which a piece is missing or wrong would load, and give
    masks that look like masks.

    Raises:
        CheckpointError: the weights are missing, damaged, unsafe or something else.
        MemoryError: there is no memory for them.
    """
    check_weights_file(weights)
    try:
        content = _content(weights)
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise refused(weights, "is damaged or no checkpoint: safetensors cannot read it") from error
    except pickle.UnpicklingError as error:
        raise refused(weights, _why_not_unpickled(str(error))) from error
    except Exception as error:  # a damaged file can make torch.load raise anything
        if memory := as_memory_error(error):
            raise memory from error
        raise refused(weights, "is damaged or no checkpoint: torch cannot read it") from error
    found = state_dict_in(content)
    if found is None:
        raise refused(
            weights,
            f"is no SAM 2 checkpoint: it is no state dict, and holds none under {', '.join(CONTAINERS[:-1])} or "
            f"{CONTAINERS[-1]}",
        )
    state, beside = without_prefixes(found)
    if why := why_foreign([*state, *beside]):
        raise refused(weights, why)
    if beside:
        logger.warning(
            "%s: %d tensor(s) beside the model, such as %s, are left out.",
            shown(weights),
            len(beside),
            shown(beside[0]),
        )
    return state


def refused(weights: Path, why: str) -> CheckpointError:
    """The error for weights that cannot be used: what is wrong with them, and what to do about it."""
    if is_of_the_catalogue(weights):
        if CATALOGUE[weights.stem].url is None:
            return CheckpointError(
                f"The checkpoint {shown(weights)} {why}. It comes with the plugin: install that again."
            )
        return CheckpointError(f"The checkpoint {shown(weights)} {why}. Delete it: the next run downloads it again.")
    return CheckpointError(f"model_weight_file: {shown(weights)} {why}. Accepted: {_ACCEPTED}.")


def _content(weights: Path) -> Any:
    """What a file holds, by what it begins with: its name may end in anything."""
    with weights.open("rb") as file:
        beginning = file.read(16)
    if weights.stat().st_size > MAX_UNPACKED_BYTES:
        raise ValueError("the file is larger than any weights")
    is_zip = zipfile.is_zipfile(weights)
    if is_zip and beginning.startswith(_BEGINNING_OF_A_ZIP):
        return _content_of_zip(weights)
    if is_zip:  # with something before it, which torch would read in its place
        raise ValueError("an archive does not begin where the file does")
    if beginning[2:].startswith(_BEGINNING_OF_AN_OLD_FILE):
        return _content_of_old_file(weights)
    if beginning[8:9] == b"{":
        return load_file(weights)
    raise refused(weights, "is cut off or no checkpoint: it is not a complete torch.save or safetensors file")


def _content_of_zip(weights: Path) -> Any:
    with zipfile.ZipFile(weights) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
            raise ValueError("a few kilobytes can unpack to more than the memory holds")
        if damaged := _damaged_part(archive):
            raise refused(weights, f"is damaged: what it holds as {shown(damaged)} is not what was written")
    # Of an archive that was packed again, torch would map the packed bytes and take them for weights.
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    with torch.serialization.safe_globals(_STAND_INS):
        return torch.load(weights, map_location="cpu", weights_only=True, mmap=not packed)


def _content_of_old_file(weights: Path) -> Any:
    """What torch.save wrote before 1.6: no archive, no checksums."""
    announced, size = 0, weights.stat().st_size

    def on_cpu(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        nonlocal announced
        announced += storage.nbytes()
        if announced > size:
            raise ValueError("the file announces more numbers than it has bytes for")
        # NaN of every precision: numbers that are announced and do not follow are not what the memory held before.
        return storage.fill_(255)  # type: ignore[attr-defined]

    # Given a path, torch first tries a tar archive, as which the same file can run code in torch 2.5.
    with (
        weights.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        torch.serialization.safe_globals(_STAND_INS),
    ):
        return torch.load(mapped, map_location=on_cpu, weights_only=True)  # type: ignore[arg-type]


def _damaged_part(archive: zipfile.ZipFile) -> str | None:
    """The name of a part that differs from its checksum."""
    for part in archive.infolist():
        if part.CRC == 0:  # torch was told to write no checksums
            continue
        try:
            with archive.open(part) as content:
                while content.read(1 << 20):
                    pass
        except zipfile.BadZipFile:
            return part.filename
    return None


def _why_not_unpickled(said: str) -> str:
    """What is wrong with a pickle that torch did not read, and the way out, as the end of a sentence."""
    if "Unsupported operand" in said:
        return "is damaged, or was written with another pickle_protocol than the one that torch.save itself chooses"
    if "global" not in said.lower():
        return "is damaged or no checkpoint: torch cannot read it"
    match = re.search(r"GLOBAL:? ([\w.]+)", said)
    name = match[1] if match else ""
    named = f" ({shown(name)})" if name else ""
    what, state = f"holds Python objects besides tensors{named}, which are", "model.state_dict()"
    if name.startswith(("sam2.", "training.", "torch.nn.")):
        what = f"is a whole model, as torch.save(model) writes it{named}, which is"
    elif name.startswith(("lightning", "pytorch_lightning", "omegaconf")):
        state = "checkpoint['state_dict']"
    return (
        f"{what} not loaded because that runs code; if you trust it, write the tensors alone with "
        f"torch.save({{'model': {state}}}, …)"
    )
