"""In which arithmetic a trial runs on a GPU: float32 is float32.

torch's own defaults are neither exact nor fast: convolutions round their inputs to TF32 (10 bits), matrix
products do not. Here what is float32 has all 24 bits, measured or trained; where speed is wanted, a sweep
asks for bfloat16 in its steps (``solver.precision``). ``cudnn.benchmark`` stays off: it picks algorithms by
the clock, so that a seed would give other last bits in every process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["exact_float32"]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without TF32 inside, and leave torch's settings as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
