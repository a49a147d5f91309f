"""The training loop, which resumes to the bit; it knows neither images nor models.

AdamW with a short warm-up and half a cosine to zero. The loss is a pure function of the step, so weights,
moments and the step are all that a resume needs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

Report = Callable[[int, float], None]
LossAt = Callable[[int], Float[Tensor, ""]]

WARM_UP, REPORT_EVERY, SAVE_EVERY = 100, 100, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The callbacks of a training, and the state it resumes from.

    ``report(step, loss)`` is called every ``REPORT_EVERY`` steps and after the last; ``save(steps, state)``
    every ``SAVE_EVERY`` steps but not after the last.
    """

    report: Report = lambda *_: None
    save: Callable[[int, bytes], None] = lambda *_: None
    state: bytes | None = None


def train(
    parameters: Sequence[nn.Parameter],
    loss_at: LossAt,
    steps: int,
    peak_learning_rate: float,
    watch: Watch | None = None,
) -> None:
    """Train parameters in place; a training resumed from a saved state ends with the same bits.

    Args:
        parameters: the parameters to train, already initialised.
        loss_at: the loss of the mini-batch at a step.
        steps: length of the whole training.
        peak_learning_rate: reached after the warm-up.
        watch: callbacks and the state to resume from.
    """
    watch = watch or Watch()
    optimiser = torch.optim.AdamW(parameters, lr=peak_learning_rate, weight_decay=0.05, betas=(0.9, 0.99))
    start = 0 if watch.state is None else _restore(watch.state, parameters, optimiser)
    for step in range(start, steps):
        optimiser.param_groups[0]["lr"] = peak_learning_rate * _share_of_peak(step, steps)
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        done = step + 1
        if step % REPORT_EVERY == 0 or done == steps:
            watch.report(step, loss.item())
        if done % SAVE_EVERY == 0 and done < steps:
            watch.save(done, _pack(done, parameters, optimiser))


@contextmanager
def limited_threads(count: int = 1) -> Iterator[None]:
    """Use ``count`` torch threads inside the block; their number decides the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _share_of_peak(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _pack(done: int, parameters: Sequence[nn.Parameter], optimiser: torch.optim.AdamW) -> bytes:
    state = {"done": torch.tensor(done)}
    for index, parameter in enumerate(parameters):
        state[f"{index}.weight"] = parameter.detach()
        state |= {f"{index}.{name}": tensor for name, tensor in optimiser.state[parameter].items()}
    return save_safetensors({name: tensor.cpu().contiguous() for name, tensor in state.items()})


def _restore(content: bytes, parameters: Sequence[nn.Parameter], optimiser: torch.optim.AdamW) -> int:
    """Put weights and moments in place and return the steps that were done."""
    state = load_safetensors(content)
    moments = {}
    for index, parameter in enumerate(parameters):
        parameter.data.copy_(state[f"{index}.weight"])
        moments[index] = {name: state[f"{index}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    return int(state["done"])
