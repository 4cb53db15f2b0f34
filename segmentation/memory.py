"""Memory that runs out, said in a sentence: what happened and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
