"""As many threads as torch is set to, whatever else the machine does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def steady_threads() -> Iterator[None]:
    """Compute with the number of threads that torch is set to, in the calling thread and the body of this context.

    GNU's OpenMP, which torch computes with, has a dynamic adjustment of threads that takes the load of the machine over the
    last 15 minutes off their number, this process's own load too. An OpenCV that is built with OpenMP switches it on in the
    thread that imports it. With another number of threads float sums are rounded otherwise: the same run would give another
    score, and another pixel at the edge of a mask, when other programs are busy. Who sets OMP_DYNAMIC has it his way.
    """
    openmp = None
    if "OMP_DYNAMIC" not in os.environ and hasattr(os, "RTLD_NOLOAD"):
        with suppress(OSError):  # torch computes with another OpenMP, or none
            openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    if openmp is None:
        yield
        return
    dynamic = openmp.omp_get_dynamic()
    openmp.omp_set_dynamic(0)
    try:
        yield
    finally:
        openmp.omp_set_dynamic(dynamic)
