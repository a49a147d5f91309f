"""Files of published checkpoints: tensors by name, and the wrapper they lie in.

A family knows its keys and shapes; this module knows files. Pickles are read by torch's restricted reader
only: it builds tensors and plain containers, and of other classes those a family names in ``allowed``.
Nothing of a file is ever executed.
"""

import pickle
import re
import struct
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file as save_safetensors_file
from torch import Tensor, nn

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models.file_kinds import HARMLESS, SAFETENSORS, require_checkpoint

__all__ = [
    "Wrapper",
    "exported_dtype",
    "is_finite",
    "load_strictly",
    "open_checkpoint",
    "read_checkpoint",
    "write_checkpoint",
]

PREFIXES = ("module.", "_orig_mod.")
"""Of DistributedDataParallel and torch.compile."""
LIGHTNING = "pytorch-lightning_version"
"""The entry of a Lightning checkpoint, which puts ``model.`` before the names of what it trains."""

MOST_UNPACKED = 10
"""Times the size of the file: weights hardly pack, so what unpacks to more was made to fill the memory."""

UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch raises on files that are no checkpoint, depending on the byte where it notices."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What a checkpoint file holds beside the tensors, so that it can be written again in the same form.

    ``key`` is the top-level entry that holds the tensors (None: the file is the state dict itself);
    ``before`` and ``after`` are the other entries in the order of the file; ``metadata`` is that of a
    safetensors file. ``prefix`` is what a wrapper of the network has put before every name.
    """

    key: str | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    prefix: str = ""

    def without_extras(self) -> "Wrapper":
        """Return the wrapper without the other entries (optimiser, epoch, arguments of the training)."""
        return Wrapper(self.key, prefix=self.prefix)


def read_checkpoint(
    path: Path, *, keys: Sequence[str] = ("model", "state_dict"), allowed: Sequence[type] = ()
) -> tuple[dict[str, Tensor], Wrapper]:
    """Read a ``.safetensors`` file, or a file of ``torch.save`` under any other name.

    Args:
        path: The file.
        keys: Entries under which the family's state dict may lie; the first that is there counts.
        allowed: Classes a pickle may hold beside tensors and plain containers, such as
            ``argparse.Namespace``.

    Returns:
        The tensors on the CPU, in the order and dtypes of the file, under their names without the prefixes
        of DistributedDataParallel, torch.compile and Lightning, and the wrapper, which has the prefix.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, unpacks to far more than its size, holds
            a class that is not allowed, no state dict, or a number that is not finite.
    """
    tensors, wrapper = open_checkpoint(path, keys=keys, allowed=allowed)
    _require_finite(tensors, path)
    return tensors, wrapper


def open_checkpoint(
    path: Path,
    *,
    keys: Sequence[str] = ("model", "state_dict"),
    allowed: Sequence[type] = (),
    lazily: bool = False,
) -> tuple[dict[str, Tensor], Wrapper]:
    """Return what ``read_checkpoint`` does, without looking at the numbers.

    Args:
        path: The file.
        keys: Entries under which the state dict may lie.
        allowed: Classes a pickle may hold.
        lazily: Map the file, where its form allows that, so that numbers that nobody looks at are never read.

    Raises:
        WeightsError: as ``read_checkpoint``, but for numbers that are not finite.
    """
    require_checkpoint(path)
    if path.suffix == SAFETENSORS:
        tensors, wrapper = _read_safetensors(path)
    else:
        _require_bounded(path, _unpacked_bytes(path))
        tensors, wrapper = _unwrap(_read_pickle(path, allowed, lazily=lazily), keys, path)
    # A view may repeat a single number for ever; a copy of it is as large as it says.
    _require_bounded(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    return _without_prefix(tensors, wrapper)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], wrapper: Wrapper) -> None:
    """Write tensors in the form that ``read_checkpoint`` returned; equal content gives equal bytes.

    Raises:
        WeightsError: a ``.safetensors`` file is wanted, which holds tensors only, but the wrapper has more
            entries.
    """
    copies = {f"{wrapper.prefix}{name}": _on_its_own(tensor) for name, tensor in tensors.items()}
    if path.suffix == SAFETENSORS:
        if others := [*wrapper.before, *wrapper.after]:
            raise WeightsError(
                f"{path}: a safetensors file holds tensors only, found also {', '.join(others)}; "
                "name the file .pth, or write it with wrapper.without_extras()"
            )
        save_safetensors_file(copies, path, wrapper.metadata or None)
    else:
        content = copies if wrapper.key is None else {**wrapper.before, wrapper.key: copies, **wrapper.after}
        with path.open("wb") as file:  # a path instead would put its name into the bytes
            torch.save(content, file)


def exported_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the type that a tensor goes out with: unlearned weights do not fit into half precision."""
    return torch.float32 if stored in (torch.float16, torch.bfloat16) else stored


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, expected: str) -> None:
    """Copy tensors into a network whose names and shapes must be exactly theirs.

    Args:
        model: The network; its dtype and device stay.
        tensors: Weights by name.
        path: The file they come from, for the message.
        expected: What the file should have been, for the message, such as ``mae_visualize_vit_base.pth``.

    Raises:
        WeightsError: they do not fit; names the first missing, unexpected and misshapen key.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    misshapen = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems = [
        *_first("missing", [name for name in wanted if name not in found]),
        *_first("unexpected", [name for name in found if name not in wanted]),
        *_first("misshapen", [f"{name} {found[name]} instead of {wanted[name]}" for name in misshapen]),
    ]
    if problems:
        raise WeightsError(
            f"{path}: expected {expected}, found weights that do not fit: {'; '.join(problems)}"
        )
    model.load_state_dict(dict(tensors))


def _first(kind: str, names: Collection[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{kind} {name}{more}" for name in list(names)[:1]]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Wrapper]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, Wrapper(metadata=file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or damaged: {error}") from error


def _read_pickle(path: Path, allowed: Sequence[type], *, lazily: bool) -> object:
    is_mapped = lazily and zipfile.is_zipfile(path)  # the older form cannot be mapped
    try:
        with torch.serialization.safe_globals([*allowed, *HARMLESS]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except UNREADABLE as error:
        # torch's own text goes on to suggest turning the protection off.
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            classes = ", ".join(kind.__qualname__ for kind in allowed) or "no other class"
            raise WeightsError(
                f"{path}: refused, because loading it would call {refused[1]}; expected tensors, plain "
                f"containers and {classes}. Whoever made the file can save its state dict alone: "
                "torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        raise WeightsError(
            f"{path}: expected a file of torch.save, found one that is damaged or of another kind; "
            "compare its size and its SHA-256 with the publisher's, or download it again"
        ) from error


def _unpacked_bytes(path: Path) -> int:
    """Return the bytes that the parts of a zip archive unpack to; torch refuses parts that are longer."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, *UNREADABLE):
        return 0  # an older form without compression, or no checkpoint, which torch finds out


def _require_bounded(path: Path, unpacked: int) -> None:
    size = path.stat().st_size
    if unpacked > MOST_UNPACKED * size + 2**20:
        raise WeightsError(
            f"{path}: expected weights, found {size:,} bytes that unpack to {unpacked:,}; such a file fills "
            "the memory. Save the state dict again with torch.save, which does not compress"
        )


def _require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise WeightsError(
                f"{path}: expected numbers, found NaN or infinity in {name}: the training that left this "
                "file diverged, or the file is damaged; use an earlier checkpoint"
            )


def _without_prefix(tensors: dict[str, Tensor], wrapper: Wrapper) -> tuple[dict[str, Tensor], Wrapper]:
    """Take off what wrappers of a network put before every name; the wrapper of the file keeps it."""
    known: Sequence[str] = PREFIXES
    if LIGHTNING in wrapper.before or LIGHTNING in wrapper.after:
        known = (*PREFIXES, "model.")
    prefix = ""
    while found := next(
        (one for one in known if all(name.startswith(prefix + one) for name in tensors)), None
    ):
        prefix += found
    if not tensors or not prefix:
        return tensors, wrapper
    short = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return short, replace(wrapper, prefix=prefix)


def _unwrap(content: object, keys: Sequence[str], path: Path) -> tuple[dict[str, Tensor], Wrapper]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a state dict, found {type(content).__name__}")
    key = next((key for key in keys if isinstance(content.get(key), dict)), None)
    state = content if key is None else content[key]
    strangers = [str(name) for name, value in state.items() if not _is_weight(name, value)]
    if strangers or not state:
        raise WeightsError(
            f"{path}: expected tensors by name, alone or under one of {', '.join(keys)}; "
            f"found {', '.join(strangers[:3]) or 'nothing'}"
        )
    if key is None:
        return dict(state), Wrapper()
    names = list(content)
    before, after = names[: names.index(key)], names[names.index(key) + 1 :]
    return dict(state), Wrapper(
        key, {name: content[name] for name in before}, {name: content[name] for name in after}
    )


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _on_its_own(tensor: Tensor) -> Tensor:
    """Copy to the CPU, contiguous: a view would bring its whole storage into the file."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
