"""What lies in the file of a checkpoint, and what of it a sweep does not use, in words.

A file often holds more than it seems: an optimiser, averaged weights beside the last ones, a second network,
the arguments of a training. Whoever starts a sweep should know which of it was taken.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pareto_unlearn.models.checkpoint_files import LIGHTNING, Wrapper, is_finite, open_checkpoint
from pareto_unlearn.models.file_kinds import SAFETENSORS
from pareto_unlearn.models.mae_transformers import has_transformers_names, published_names

_SHOWN = 4
_SHOWN_ARGUMENTS = (
    "model",
    "arch",
    "input_size",
    "patch_size",
    "norm_pix_loss",
    "mask_ratio",
    "epochs",
    "ema",
)
_MEGABYTE = 1_000_000
_WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile", "model.": "Lightning"}
_AVERAGED = ("ema", "averaged", "swa", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What a file of weights holds.

    ``key`` is the entry that holds the weights, None where the file is nothing else; ``beside`` are the other
    entries and ``averaged`` those among them that look like averaged weights. ``unused`` are the tensors that
    the model has no place for, and ``resized`` those that it has in another size.
    """

    num_bytes: int
    form: str
    key: str | None
    tensors: int
    values: int
    dtypes: Mapping[str, int]
    not_finite: Sequence[str]
    prefix: str
    names: str
    beside: Sequence[str]
    averaged: Sequence[str]
    arguments: Mapping[str, str]
    unused: Sequence[str]
    resized: Mapping[str, str]


def look_at_checkpoint(
    path: Path, state: Mapping[str, Tensor], *, is_known_finite: bool = False
) -> CheckpointFacts:
    """Return what a file holds beside and among the weights of a model that was loaded from it.

    Args:
        path: the file.
        state: the weights of that model by name.
        is_known_finite: who loaded the model has looked at every number; here none is read then.

    Raises:
        WeightsError: the file cannot be read by the readers of this package.
    """
    tensors, wrapper = open_checkpoint(path, allowed=(Namespace,), lazily=True)
    others = wrapper.before | wrapper.after
    theirs = has_transformers_names(tensors)
    named = published_names(tensors) if theirs else tensors
    return CheckpointFacts(
        num_bytes=path.stat().st_size,
        form="safetensors" if path.suffix == SAFETENSORS else "torch.save",
        key=wrapper.key,
        tensors=len(tensors),
        values=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        not_finite=[name for name, tensor in tensors.items() if not (is_known_finite or is_finite(tensor))],
        prefix=wrapper.prefix,
        names="Hugging Face transformers" if theirs else "published",
        beside=[str(name) for name in others],
        averaged=[str(name) for name in others if _is_averaged(str(name))],
        arguments=_arguments(wrapper),
        unused=[name for name in named if name not in state],
        resized=_resized(named, state),
    )


def describe_checkpoint(facts: CheckpointFacts) -> list[str]:
    """Return what a file holds in a few lines, the most important first."""
    place = f" under `{facts.key}`" if facts.key else ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.dtypes.items())
    lines = [
        f"{facts.num_bytes / _MEGABYTE:.1f} MB of {facts.form}: {facts.tensors} tensors{place} ({kinds}), "
        f"{facts.values:,} numbers{'' if facts.not_finite else ', all finite'}"
    ]
    if facts.not_finite:
        lines.append(f"NaN or infinity in {_few(facts.not_finite)}")
    if facts.names != "published":
        lines.append(f"names of {facts.names}; export writes them again")
    if facts.prefix:
        lines.append(f"names begin with {facts.prefix} ({_makers(facts.prefix)}); export writes it again")
    if any(kind in ("float16", "bfloat16") for kind in facts.dtypes):
        lines.append("half precision is trained and exported as float32")
    lines += [f"{name}: {change}" for name, change in facts.resized.items()]
    if facts.arguments:
        said = ", ".join(f"{name}={value}" for name, value in facts.arguments.items())
        lines.append(f"its arguments say {said}")
    return lines + _describe_unused(facts)


def _describe_unused(facts: CheckpointFacts) -> list[str]:
    lines = []
    if facts.beside:
        lines.append(f"not used: {_few(facts.beside)}, beside the weights")
    if facts.averaged:
        lines.append(
            f"not used: {_few(facts.averaged)} may be averaged weights; to forget in those, save them as a "
            "file of their own"
        )
    if facts.unused:
        count = len(facts.unused)
        lines.append(f"not used: {count} tensors without a place in the model ({_few(facts.unused)})")
    return lines


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _makers(prefix: str) -> str:
    return ", ".join(maker for start, maker in _WRAPPERS.items() if start in prefix)


def _is_averaged(name: str) -> bool:
    return any(word in name.lower().replace("-", "_").split("_") for word in _AVERAGED)


def _arguments(wrapper: Wrapper) -> dict[str, str]:
    """Return the arguments of a training that tell what the weights are; of what is plain alone."""
    others = wrapper.before | wrapper.after
    arguments = others.get("args", others.get("hyper_parameters"))
    known: Mapping[str, Any] = (
        arguments if isinstance(arguments, dict) else getattr(arguments, "__dict__", {})
    )
    found = {
        name: str(known[name]) for name in _SHOWN_ARGUMENTS if isinstance(known.get(name), str | int | float)
    }
    version = others.get(LIGHTNING)
    return found | ({"Lightning": version} if isinstance(version, str) else {})


def _resized(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{tuple(tensor.shape)} in the file, {tuple(state[name].shape)} in the model, interpolated"
        for name, tensor in tensors.items()
        if name in state and state[name].shape != tensor.shape
    }
