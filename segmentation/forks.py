"""A process that was forked from this one: its locks are free, and OpenMP does not wait there for threads that nobody runs."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

OMP_PAUSE_SOFT = 1  # omp_pause_resource_t, OpenMP 5.0
_openmp_rests = False
#: The thread that a forked process began with, where OpenMP was not told before: it has threads there that nobody runs.
_forked_thread: int | None = None
_locks: WeakSet = WeakSet()
Lock = TypeVar("Lock")


def free_in_children(lock: Lock) -> Lock:
    """`lock`, a threading.Lock or RLock, which a forked process finds free: who held it is not there to let go of it."""
    _locks.add(lock)
    return lock


def _openmps() -> list[ctypes.CDLL]:
    """GNU's OpenMP as torch, OpenCV and others have loaded it: several may bring one of their own."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        loaded = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/libgomp" in line}
        return [ctypes.CDLL(path, mode=os.RTLD_NOLOAD) for path in loaded]
    return []


def _before_fork() -> None:
    """Let OpenMP end the threads that the caller computes with; it starts new ones when they are needed.

    GNU's keeps them otherwise, and waits for them forever in the forked process, which has none: in torch, and in an OpenCV
    that is built with OpenMP.
    """
    global _openmp_rests
    if _forked_thread != threading.get_ident():
        with suppress(AttributeError):  # older than OpenMP 5.0
            failed = [openmp.omp_pause_resource_all(OMP_PAUSE_SOFT) for openmp in _openmps()]
            _openmp_rests = not any(failed)


def _after_fork() -> None:
    """Where OpenMP was not told before (uWSGI forks in C), it computes in the calling thread alone from then on."""
    global _forked_thread, _openmp_rests
    if not _openmp_rests:
        _forked_thread = threading.get_ident()
        for openmp in _openmps():
            openmp.omp_set_max_active_levels(0)
    _openmp_rests = False
    for lock in _locks:
        lock._at_fork_reinit()


def _after_fork_in_parent() -> None:
    global _openmp_rests
    _openmp_rests = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
