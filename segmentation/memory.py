"""Memory that runs out, said in a sentence: what happened and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
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
    except (MemoryError, RuntimeError, OSError) as error:
        clear = as_memory_error(error)
        if clear is None or clear is error:
            raise
        raise clear from error


@dataclass
class BatchSize:
    """How many items are computed at once; less once a GPU had no memory for them."""

    at_once: int


def in_batches(
    items: Sequence[T], size: BatchSize, compute: Callable[[Sequence[T]], R], make_room: Callable[[], None], what: str
) -> Iterator[R]:
    """Compute `items`, `size.at_once` at a time; half as many, here and in later batches, where a GPU has no memory for them.

    Args:
        items: a list, or an array along its first axis.
        size: is changed where memory runs out.
        compute: is called with consecutive parts of `items`.
        make_room: frees what can be computed again, before the next attempt.
        what: one item in a word, for the error.

    Raises:
        GPUMemoryError: there is no memory for one item, though room was made for it.
    """
    from torch import OutOfMemoryError  # this module is imported where torch is not

    done, has_room = 0, False
    while done < len(items):
        part = items[done : done + size.at_once]
        try:
            result = compute(part)
        except OutOfMemoryError as error:
            if len(part) == 1 and has_room:
                raise GPUMemoryError(f", even for one {what} at a time") from error
        else:
            yield result
            done += len(part)
            continue
        # Not in the except clause, which still holds what the failed attempt had made.
        size.at_once = max(len(part) // 2, 1)
        make_room()
        has_room = True
        logger.warning("The memory of the GPU ran out: %d %s(s) at once from here on.", size.at_once, what)
