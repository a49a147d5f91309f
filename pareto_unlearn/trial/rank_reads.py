"""What a trial reads of the store while it runs, read by rank 0 and told to the other ranks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pareto_unlearn.records import BankEntry
from pareto_unlearn.stored_fields import read_fields
from pareto_unlearn.trial.ranks import Ranks

if TYPE_CHECKING:
    from pareto_unlearn.trial.running import Hooks

_STEP = "step"


def share_reads(hooks: "Hooks", ranks: Ranks) -> "Hooks":
    """Return hooks whose reads give every rank what rank 0 reads; unchanged for one process.

    Args:
        hooks: of this process. Those of the other ranks need not read anything.
        ranks: that run the trial together.
    """
    if ranks.link is None:
        return hooks

    def load_resume() -> tuple[int, dict[str, bytes]] | None:
        return _unpack_resume(ranks.told(lambda: _pack_resume(hooks.load_resume())))

    def read_bank(trial_id: str) -> Sequence[BankEntry]:
        listing = ranks.told(
            lambda: json.dumps([asdict(entry) for entry in hooks.read_bank(trial_id)]).encode()
        )
        return tuple(read_fields(BankEntry, entry) for entry in json.loads(listing))

    return replace(
        hooks,
        load_resume=load_resume,
        read_bank=read_bank,
        read_bank_state=lambda trial_id, entry: ranks.told(lambda: hooks.read_bank_state(trial_id, entry)),
        read_model=lambda trial_id: ranks.told(lambda: hooks.read_model(trial_id)),
    )


def _pack_resume(kept: tuple[int, dict[str, bytes]] | None) -> bytes:
    if kept is None:
        return b""
    step, files = kept
    tensors = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in files.items()
    }
    return save_safetensors({**tensors, _STEP: torch.tensor(step)})


def _unpack_resume(content: bytes) -> tuple[int, dict[str, bytes]] | None:
    if not content:
        return None
    tensors = load_safetensors(content)
    step = int(tensors.pop(_STEP))
    return step, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
