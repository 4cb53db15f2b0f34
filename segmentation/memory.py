"""Memory that runs out: fewer items at a time where that helps, and else an error that says what happened and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

logger = logging.getLogger(__name__)

#: What torch and the libraries below it say. Its error for a GPU is a class of its own, and for the CPU a RuntimeError.
_OF_A_GPU = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
_OF_THE_COMPUTER = ("DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory", "Insufficient memory")


class GPUMemoryError(MemoryError):
    """The GPU has no memory for the least that has to be computed at once.

    Args:
        though: what was tried, for the sentence.
    """

    def __init__(self, though: str = "") -> None:
        super().__init__(
            f"The memory of the GPU ran out{though}. Close other programs that use it, choose a smaller model (model_name), or "
            "set cuda to False."
        )


class MainMemoryError(MemoryError):
    """This computer has no memory for what has to be computed."""

    def __init__(self) -> None:
        super().__init__(
            "The memory of this computer ran out. Close other programs, choose a smaller model (model_name), or lower "
            "input_size_percent; masks themselves need the size of the image."
        )


def as_memory_error(error: BaseException) -> MemoryError | None:
    """`error` of torch, numpy or others as :class:`GPUMemoryError` or :class:`MainMemoryError`; None if it is about something
    else."""
    if isinstance(error, (GPUMemoryError, MainMemoryError)):
        return error
    if any(text in str(error) for text in _OF_A_GPU):
        return GPUMemoryError()
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OF_THE_COMPUTER):
        return MainMemoryError()
    return None


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise :class:`GPUMemoryError` or :class:`MainMemoryError` in place of what torch, numpy and others raise."""
    try:
        yield
    except Exception as error:  # OpenCV's is nothing more special
        clear = None if isinstance(error, ValueError) else as_memory_error(error)
        try:
            if clear is None or clear is error:
                raise
            raise clear from error
        finally:
            del clear  # its trace holds this frame, which would keep both, and all that the work had made


@dataclass
class BatchSize:
    """How many items are computed at once; :func:`in_batches` makes it smaller where the memory of a GPU asks for it."""

    at_once: int


class _Sliceable(Protocol):
    """A list, an array or a tensor: `items[start:stop]` is of the same kind."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


Items = TypeVar("Items", bound=_Sliceable)
Result = TypeVar("Result")


def in_batches(
    items: Items, size: BatchSize, compute: Callable[[Items], Result], make_room: Callable[[], None], what: str
) -> Iterator[Result]:
    """Compute `items`, `size.at_once` at a time, each batch when its result is asked for.

    Where a GPU has no memory for a batch, room is made and half of it is tried, and later batches have this size, too. A single
    item is tried once more.

    Args:
        items: a list, an array or a tensor.
        size: is changed where the memory does not suffice.
        compute: called with part of the items.
        make_room: frees memory that can be done without.
        what: an item is, in the singular, for the messages.

    Raises:
        GPUMemoryError: there is no memory for one item, although room was made.
    """
    from torch import OutOfMemoryError  # not above: parameters are read, and errors told, where torch is not loaded

    done, has_room = 0, False
    while done < len(items):
        batch = items[done : done + size.at_once]
        try:
            yield compute(batch)
        except OutOfMemoryError as error:
            if has_room and len(batch) == 1:
                raise GPUMemoryError(f", even for one {what} at a time") from error
        else:
            done, has_room = done + len(batch), False
            continue
        # Not in the except clause, which still holds what the failed attempt had made.
        make_room()
        has_room = True
        size.at_once = max(len(batch) // 2, 1)
        logger.warning("The memory of the GPU ran out: %d %s(s) at once from here on.", size.at_once, what)
