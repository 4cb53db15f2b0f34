"""As many threads as there are cores to run on: torch's threads wait for one another at the end of each operation, so that one
thread too many on a busy machine slows a prompt down tenfold, and one too few on an idle one leaves a core unused."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

    GNU's keeps them otherwise, and waits for them forever in the forked process, which has none: in torch, and in OpenCV as
    Ikomia brings it, which looks for the contours of each mask.
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


@contextmanager
def free_cores() -> Iterator[Callable[[], None]]:
    """Let torch use the cores that other processes leave, in the calling thread and the body of this context.

    Never more threads than torch is set to. Gives a function that looks again, for work that takes long.

    OpenCV as Ikomia brings it (0.16.1, built with OpenMP) switches on the dynamic adjustment of threads in the thread that
    imports it. GNU's OpenMP, which torch shares with it, then takes the load of the machine over the last 15 minutes off the
    number of threads, this process's own load too: who has kept all cores busy for that long computes on one of them. That is
    switched off here and done anew, with what other processes do at the moment. Who sets OMP_DYNAMIC has it his way.
    """
    openmp = None
    if "OMP_DYNAMIC" not in os.environ and hasattr(os, "RTLD_NOLOAD"):
        with suppress(OSError):  # torch computes with another OpenMP, or none
            openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    if openmp is None:
        yield lambda: None
        return
    dynamic, threads = openmp.omp_get_dynamic(), openmp.omp_get_max_threads()

    def adjust() -> None:
        openmp.omp_set_num_threads(max(min(threads, (os.cpu_count() or threads) - busy_elsewhere()), 1))

    openmp.omp_set_dynamic(0)
    try:
        adjust()
        yield adjust
    finally:
        openmp.omp_set_dynamic(dynamic)
        openmp.omp_set_num_threads(threads)


def busy_elsewhere() -> int:
    """How many threads of other processes compute or wait for a core (proc(5), loadavg); 0 where the system does not say."""
    least = None
    for _ in range(3):  # who is there each time stays; who comes and goes does not count
        try:
            busy = int(_read("/proc/loadavg").split()[3].split("/")[0]) - 1  # the caller
        except (OSError, IndexError, ValueError):
            return 0
        if busy > 0:
            busy -= _own_busy() - 1
        least = busy if least is None else min(least, busy)
        if least <= 0:
            return 0
    return least


def _own_busy() -> int:
    """How many threads of this process compute, the caller among them."""
    busy = 0
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended meanwhile
            busy += _read(f"/proc/self/task/{thread}/stat").rpartition(")")[2].split()[0] == "R"
    return max(busy, 1)


def _read(path: str) -> str:
    """A small file, read without giving up the interpreter's lock: where other threads run Python, open() and read() would wait
    for it each time, 5 ms for each of these threads."""
    libc = ctypes.PyDLL(None)
    file = libc.open(path.encode(), os.O_RDONLY | os.O_CLOEXEC)
    if file < 0:
        raise OSError(f"{path} cannot be opened")
    try:
        text = ctypes.create_string_buffer(1024)
        length = libc.read(file, text, len(text))
    finally:
        libc.close(file)
    return text.raw[: max(length, 0)].decode("ascii", "replace")
