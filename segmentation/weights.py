"""What weights hold: a torch.save file is read as data, never as code, and refused where it is damaged or something else."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints import CheckpointError, is_of_the_catalogue
from .memory import as_memory_error
from .messages import fault_of_file, shown

#: The largest released weights have 898 MB, some four times that with an optimizer's state.
MAX_UNPACKED_BYTES = 16 << 30
_ACCEPTED = "the path of a .pt file with the weights of a SAM 2 model, or empty"


def check_weights_file(weights: Path) -> None:
    """CheckpointError where there is no file that can be read."""
    fault = fault_of_file(weights)
    if fault:
        raise refused(weights, fault)


def read_weights(weights: Path) -> dict[str, Tensor]:
    """The state dict of a file that `torch.save({"model": state_dict}, …)` wrote, or of one with the state dict alone.

    Nothing but tensors is unpickled, and every part is compared with its checksum, which torch itself does not do: weights of
    which a piece is missing or wrong would load, and give masks that look like masks.

    Raises:
        CheckpointError: the weights are missing, damaged, unsafe or something else.
        MemoryError: there is no memory for them.
    """
    check_weights_file(weights)
    if not zipfile.is_zipfile(weights):  # torch.save has written zip archives since 1.6, long before SAM 2
        raise refused(weights, "is cut off or no checkpoint: it is not a complete torch.save file")
    try:
        with zipfile.ZipFile(weights) as archive:
            parts = archive.infolist()
            if sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
                raise ValueError("a few kilobytes can unpack to more than the memory holds")
            damaged = _damaged_part(archive)
        # Of an archive that was packed again, torch would map the packed bytes and take them for weights.
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        content = None if damaged else torch.load(weights, map_location="cpu", weights_only=True, mmap=not packed)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise refused(weights, "is damaged or no checkpoint: torch cannot read it") from error
        raise refused(
            weights,
            f"holds Python objects besides tensors{_named_object(error)}, which are not loaded because that runs code; if you "
            "trust it, write the tensors alone with torch.save({'model': model.state_dict()}, …)",
        ) from error
    except Exception as error:  # a damaged archive can make torch.load raise anything
        if memory := as_memory_error(error):
            raise memory from error
        raise refused(weights, "is damaged or no checkpoint: torch cannot read it") from error
    if damaged:
        raise refused(weights, f"is damaged: what it holds as {shown(damaged)} is not what was written")
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise refused(weights, "is no SAM 2 checkpoint: it does not hold {'model': state_dict}")
    return state


def refused(weights: Path, why: str) -> CheckpointError:
    """The error for weights that cannot be used: what is wrong with them, and what to do about it."""
    if is_of_the_catalogue(weights):
        return CheckpointError(f"The checkpoint {shown(weights)} {why}. Delete it: the next run downloads it again.")
    return CheckpointError(f"model_weight_file: {shown(weights)} {why}. Accepted: {_ACCEPTED}.")


def facts_of_weights(state: dict[str, Tensor]) -> tuple[int, int, bool] | None:
    """Width and depth of the image encoder and whether it is SAM 2.1: what tells the nine models apart."""
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if str(name).startswith("image_encoder.trunk.blocks.")}
    return None if patches is None or not patches.ndim else (len(patches), len(blocks), "no_obj_embed_spatial" in state)


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


def _named_object(error: Exception) -> str:
    """The class or function that torch did not load, in brackets, where its message says which."""
    match = re.search(r"GLOBAL:? ([\w.]+)", str(error))
    return f" ({match[1]})" if match else ""
