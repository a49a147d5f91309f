"""Copies from the host to a device that the host does not wait for.

An ordinary copy to a GPU stops the host until all earlier work of the device is done, so every copy of a
training step would leave the device idle while the next operations are prepared.
"""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; the tensor itself if it is there already.

    A GPU reads a page-locked copy, which torch keeps until it has been read; the caller may change the tensor
    at once.
    """
    if tensor.device.type != "cpu":
        return tensor.to(device)  # to the host, a copy that is not waited for would be read half done
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a tensor, by their numbers on the host; plain indexing waits for the device."""
    return values[upload(rows, values.device)]
