"""Trained weights from a checkpoint: of a module alone, or of a whole network that holds it."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mrx.errors import UsageError
from mrx.methods.spec import Representation

_WRAPPER_PREFIXES = ("module.", "base_model.")
BATCH_COUNTER = "num_batches_tracked"
"""How a batch norm's count of batches is called, which no output depends on."""


def load_weights(module: Representation, path: str | Path) -> str:
    """Load a module's weights, and say which file they are.

    The file holds a state dict, or ``{"state_dict": ...}`` as training programs save it. The
    module's `key_prefixes` say where whole networks keep it; with such a prefix the network's
    other keys are ignored, without one every key must be the module's.

    Returns:
        The sha256 of the file.

    Raises:
        UsageError: the file is not there, cannot be read safely, or does not fit; nothing is loaded
    """
    path = Path(path)
    try:
        state = module.translate_state(read_state(path))
    except ValueError as error:
        raise UsageError(f"{path} does not fit {type(module).__name__}: {error}") from error
    wanted = module.state_dict()
    prefix = _choose_key_prefix(state, wanted, module.key_prefixes)
    found = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    if prefix:
        found = {key: value for key, value in found.items() if key in wanted}
    digest = load_named_weights(module, found, path)
    module.bound = module.estimate_bound()
    return digest


def load_named_weights(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, *, skip: tuple[str, ...] = ()
) -> str:
    """Load what was found in a file by a module's names, and say which file it is.

    Every name must be in both, but for those that begin as in `skip`, which are left as they are,
    and for counters of batches, which old files do not have.

    Returns:
        The sha256 of the file.

    Raises:
        UsageError: a name is in one alone, or has another shape; nothing is loaded
    """
    own = module.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(skip)}
    weights = {key: value for key, value in weights.items() if not key.startswith(skip)}
    if problems := _find_weight_problems(weights, wanted):
        raise UsageError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(own | weights)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefixes that wrappers put before their names."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot read weights: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UsageError(f"{path}: not a file of weights that torch can load safely") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return {_strip_wrappers(str(key)): v for key, v in state.items() if isinstance(v, Tensor)}


def _strip_wrappers(key: str) -> str:
    for wrapper in _WRAPPER_PREFIXES:
        key = key.removeprefix(wrapper)
    return key


def _choose_key_prefix(
    state: dict[str, Tensor], wanted: dict[str, Tensor], prefixes: tuple[str, ...]
) -> str:
    """The first prefix under which most of the module's keys are."""
    return max(prefixes, key=lambda prefix: sum(prefix + key in state for key in wanted))


def _find_weight_problems(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """What keeps the weights from fitting, in words."""
    missing = [key for key in wanted if key not in found and not key.endswith(BATCH_COUNTER)]
    unexpected = [key for key in found if key not in wanted]
    shapes = [
        f"{key} is {tuple(found[key].shape)}, needs {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    problems = [f"missing {shorten_list(missing)}"] if missing else []
    problems += [f"unexpected {shorten_list(unexpected)}"] if unexpected else []
    return problems + ([shorten_list(shapes, max_keys=2)] if shapes else [])


def shorten_list(keys: list[str], max_keys: int = 5) -> str:
    """A list of keys that fits on a line."""
    rest = f" and {len(keys) - max_keys} more" if len(keys) > max_keys else ""
    return ", ".join(keys[:max_keys]) + rest
