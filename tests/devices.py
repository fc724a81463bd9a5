"""A second device without one: `meta` tensors stand for a GPU's, and all that the host would wait for is counted."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META, HOST = torch.device("meta"), torch.device("cpu")
ROOTS = ("kdkit", "transformers")
"""Packages whose lines are blamed for a wait."""
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
SEARCHES = (aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor)


class DeviceTraffic(TorchDispatchMode):
    """Counts bytes between `cpu` and `meta`, and what makes the host wait for a device.

    The host waits for a number that it reads (`item`, `tolist`, `bool`, a copy to the host), for an output whose
    size depends on values (`nonzero`, indexing by a mask), and for a copy from the host that is not `non_blocking`.
    Booleans and whole numbers that are read are true and 1, floating ones and all that comes back from `meta` 0.
    """

    def __init__(self):
        super().__init__()
        self.crossed: Counter[tuple[int, ...]] = Counter()
        """Bytes by the shape of what crossed."""
        self.waits: Counter[str] = Counter()
        """By the line of the package that caused them."""
        self._constants = _Constants(self)

    def __enter__(self):
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        """Run an operator, in a stand-in's place where `meta` has no numbers."""
        options = options or {}
        if function in COPIES:
            return self._copy(function, arguments, options)
        on_meta = [value for value in arguments if isinstance(value, torch.Tensor) and value.device == META]
        if function is aten._local_scalar_dense.default and on_meta:
            self.waits[_blame()] += 1
            return 0.0 if on_meta[0].is_floating_point() else True
        if function in SEARCHES and on_meta:
            self.waits[_blame()] += 1
            number = on_meta[0].numel()
            shape = (number, on_meta[0].dim()) if function is aten.nonzero.default else (number,)
            return torch.empty(shape, dtype=torch.int64, device=META)
        if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and on_meta:
            arguments = (arguments[0], [self._by_number(index) for index in arguments[1]], *arguments[2:])
        return function(*arguments, **options)

    def _by_number(self, index: torch.Tensor | None) -> torch.Tensor | None:
        """Turn a mask over one dimension into numbers of rows, which is what a GPU waits for."""
        if index is None or index.dtype != torch.bool:
            return index
        self.waits[_blame()] += 1
        return torch.empty(index.numel(), dtype=torch.int64, device=META)

    def _copy(self, function, arguments, options):
        target = arguments[0] if function is aten.copy_.default else None
        source = arguments[1] if target is not None else arguments[0]
        to = target.device if target is not None else torch.device(options.get("device") or source.device)
        if to == source.device:
            return function(*arguments, **options)
        self.crossed[tuple(source.shape)] += source.numel() * source.itemsize
        blocking = not (options.get("non_blocking") or (target is not None and arguments[2:3] == (True,)))
        if to == HOST or blocking:
            self.waits[_blame()] += 1
        if target is not None:
            return target
        made = torch.zeros if source.dtype != torch.bool else torch.ones
        return made(source.shape, dtype=options.get("dtype") or source.dtype, device=to)


class _Constants(TorchFunctionMode):
    """Counts tensors that are made of Python numbers on a device: each is a blocking copy."""

    def __init__(self, traffic: DeviceTraffic):
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        is_number = function in (torch.tensor, torch.as_tensor) and not isinstance(arguments[0], torch.Tensor)
        if is_number and options.get("device") is not None and torch.device(options["device"]) == META:
            self.traffic.waits[_blame()] += 1
        return function(*arguments, **options)


def _blame() -> str:
    """Return the innermost line of one of the packages."""
    frame = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        for root in ROOTS:
            if root in parts and "tests" not in parts:
                return f"{'/'.join(parts[parts.index(root) :])}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
