"""The memory of a GPU that trials share, and what a process keeps of it from the trial before."""

import gc
import resource
import sys

import torch

from pareto_unlearn.errors import MachineError

LEAST_SHARE = 0.9
"""Of the memory that a trial's part of a GPU stands for: a context and the desktop take some of it."""
LARGEST_LEFT = 0.05
"""Of a GPU's memory, what a process may still hold of the trial before."""


def share_gpu(gpus_per_trial: float) -> None:
    """Keep a trial that has a part of a GPU from taking more of its memory than this part.

    One that takes more then fails by itself, instead of those beside it.

    Raises:
        MachineError: so much of the memory is taken already that the part is not there.
    """
    if not 0 < gpus_per_trial < 1 or not torch.cuda.is_available():
        return
    free, total = torch.cuda.mem_get_info()
    own = torch.cuda.memory_reserved()
    wanted = gpus_per_trial * total
    if free + own < LEAST_SHARE * wanted:
        raise MachineError(
            f"run.gpus_per_trial: {gpus_per_trial:g} of the GPU is {wanted / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB of its {total / 1e9:.1f} GB are free: somebody else uses it. Free it, or "
            "give a trial a smaller part"
        )
    torch.cuda.set_per_process_memory_fraction(gpus_per_trial)


def release_gpu() -> bool:
    """Give back what a trial that has ended held of the GPU; return False if too much of it stays reserved.

    A process that keeps it must not solve another trial.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    gc.collect()  # models and their gradients refer to one another
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    return torch.cuda.memory_reserved() <= LARGEST_LEFT * total


def peak_memory(device: torch.device) -> int:
    """Return the most bytes so far: of this process on the GPU, or of all of it where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
