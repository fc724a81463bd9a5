"""Watching what a computation allocates: the largest tensor that an operator makes, and how much lives at once."""

import gc

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Records the largest tensor that was made, and the peak of all that lived at the same time."""

    def __init__(self, *known: torch.Tensor):
        """Start to watch.

        Args:
            known: tensors that were there before, which do not count, and neither do views of them.
        """
        super().__init__()
        self.largest = 0
        """Elements of the largest tensor."""
        self.peak_bytes = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        """Run an operator and look at what it returns."""
        outputs = function(*arguments, **(options or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self.largest = max(self.largest, storage.nbytes() // tensor.itemsize)
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return outputs


def held_bytes() -> int:
    """Return the bytes of all storages that tensors of this process hold, whoever knows these; nothing is collected."""
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    storages = (each.untyped_storage() for each in tensors if each.device.type != "meta")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
