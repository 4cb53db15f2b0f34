"""What others in the process have set, kept away from the work of a model, and left as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .forks import free_in_children


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute in the body of this context as torch does in a fresh process, whatever others have set: the dtype and the device
    of new tensors, autocast on the CPU, the precision of products."""
    with ExitStack() as stack:
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_NewTensorsFloat32())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(_exact_products())
        yield


class _NewTensorsFloat32(TorchFunctionMode):
    """The calling thread's new tensors are float32: torch.set_default_dtype would change those of other threads, too."""

    _MAKERS = frozenset((torch.empty, torch.ones, torch.zeros, torch.linspace, torch.rand, torch.randn))

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in self._MAKERS and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": torch.float32}
        return function(*args, **kwargs)


_precision_lock = free_in_children(threading.Lock())
_who_need_exact = 0
_found: dict[str, str] = {}


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 numbers on the CPU in float32, though somebody has allowed less (set_float32_matmul_precision).

    In bfloat16 masks are other ones; and where some library has told the processor to round subnormal numbers to zero, torch's
    (2.14.1) bfloat16 products are not even numbers. The setting is one for the whole process: the first who needs this sets it,
    the last sets it back.
    """
    global _who_need_exact
    with _precision_lock:
        if not _who_need_exact:
            _found.update(
                (name, value) for name, value in _precisions().items() if value not in ("none", "ieee", "highest")
            )
            for name in _found:
                _set_precision(name, _EXACT)
        _who_need_exact += 1
    try:
        yield
    finally:
        with _precision_lock:
            _who_need_exact -= 1
            if not _who_need_exact:
                now = _precisions()
                for name, value in _found.items():
                    if now[name] == _EXACT:  # nobody set it meanwhile
                        _set_precision(name, value)
                _found.clear()


_BY_OPERATION = hasattr(torch.backends.mkldnn, "matmul")  # torch 2.9 and newer
_EXACT = "ieee" if _BY_OPERATION else "highest"


def _precisions() -> dict[str, str]:
    if not _BY_OPERATION:
        return {"all": torch.get_float32_matmul_precision()}
    return {name: getattr(torch.backends.mkldnn, name).fp32_precision for name in ("matmul", "conv")}


def _set_precision(name: str, value: str) -> None:
    if not _BY_OPERATION:
        torch.set_float32_matmul_precision(value)
        return
    of_all = torch.backends.mkldnn.fp32_precision
    getattr(torch.backends.mkldnn, name).fp32_precision = "none" if value == of_all else value  # none: as for all
