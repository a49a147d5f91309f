"""Counts, on a CPU, where a step would wait for a GPU, what it would send there, and what it would refuse.

A tensor counts as the device's if it is one of those given, or made from one; everything else is the host's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}
"""Waits that no operation is dispatched for; ``item``, ``bool`` and ``float`` are ``_local_scalar_dense``."""
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


def tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class DeviceTraffic:
    """A context in which operations are watched.

    ``waits`` names what made the host wait; ``refused`` the operations that mix host and device, which raise
    on a GPU; ``sent`` has the bytes of every copy to the device; ``flat_passes`` counts reads and writes of
    vectors of ``flat_size``.
    """

    def __init__(self, on_device: Iterable[Tensor], flat_size: int = 0) -> None:
        self._device = {_place(tensor) for tensor in on_device}
        self.flat_size, self.flat_passes = flat_size, 0
        self.waits: list[str] = []
        self.refused: list[str] = []
        self.sent: list[int] = []
        self._modes = (_Functions(self), _Operations(self))

    def __enter__(self) -> "DeviceTraffic":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def holds(self, tensor: Tensor) -> bool:
        return _place(tensor) in self._device

    def put(self, tensors: Sequence[Tensor], *, on_device: bool) -> None:
        for tensor in tensors:
            (self._device.add if on_device else self._device.discard)(_place(tensor))

    def upload(self, tensor: Tensor, moved: Tensor, what: str, *, waits: bool) -> Tensor:
        own = moved.clone() if _place(moved) == _place(tensor) else moved
        self.put([own], on_device=True)
        self.sent.append(own.nbytes)
        if waits:
            self.waits.append(what)
        return own


class _Functions(TorchFunctionMode):
    def __init__(self, traffic: DeviceTraffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, traffic = kwargs or {}, self._traffic
        result = function(*args, **kwargs)
        if function is torch.Tensor.to:
            others = [*args[1:], kwargs.get("device"), kwargs.get("other")]
            names_device = any(isinstance(one, torch.device | str | Tensor) for one in others)
            if names_device and not traffic.holds(args[0]):
                waits = not kwargs.get("non_blocking", False)
                return traffic.upload(args[0], result, "to(device)", waits=waits)
        elif function in READS and traffic.holds(args[0]):
            traffic.waits.append(function.__name__)
            if isinstance(result, Tensor):
                result = result.clone()
                traffic.put([result], on_device=False)
        elif kwargs.get("device") is not None and kwargs.get("generator") is None:
            traffic.put(tensors_in(result), on_device=True)
            if function in (torch.tensor, torch.as_tensor):
                traffic.waits.append("tensor(device=)")
        return result


class _Operations(TorchDispatchMode):
    def __init__(self, traffic: DeviceTraffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, traffic = kwargs or {}, self._traffic
        operation, inputs = function.overloadpacket, tensors_in((args, kwargs))
        held = [traffic.holds(tensor) for tensor in inputs]
        result = function(*args, **kwargs)
        outputs = tensors_in(result)
        if operation in WAITS and any(held):
            traffic.waits.append(operation.__name__)
        self._count_mixed(operation, inputs, held)
        traffic.put(outputs, on_device=any(held))
        if traffic.flat_size and not function.is_view:
            touched = [one for one in (*inputs, *outputs) if one.numel() == traffic.flat_size]
            traffic.flat_passes += len(touched)
        return result

    def _count_mixed(self, operation, inputs, held) -> None:
        traffic = self._traffic
        if operation in INDEXING and held[0]:
            # What is written may be a number of the host; what says where, a mask included, is waited for.
            places = [
                (one, own) for one, own in zip(inputs, held, strict=True) if not one.is_floating_point()
            ]
            if any(not own or one.dtype == torch.bool for one, own in places if one is not inputs[0]):
                traffic.waits.append(operation.__name__)
            return
        # A single number of the host may go into an operation of the device.
        host = [one for one, is_held in zip(inputs, held, strict=True) if not is_held and one.dim() > 0]
        if any(held) and host:
            traffic.refused.append(operation.__name__)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
