"""Trained weights from a checkpoint of a module, or of a whole network that contains it."""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mrx.errors import UsageError
from mrx.methods.spec import Representation

_WRAPPER_PREFIXES = ("module.", "base_model.")
BATCH_COUNTER = "num_batches_tracked"
"""Name of a batch norm's counter of batches, which no output depends on."""


class WeightSnapshot:
    """A copy of a module's parameters, to tell later whether they have changed.

    Args:
        module: the module, before any training
    """

    def __init__(self, module: nn.Module) -> None:
        self._values = {name: value.detach().clone() for name, value in module.named_parameters()}

    def differ_from(self, module: nn.Module, names: Iterable[str] | None = None) -> bool:
        """Tell whether the module has other values now, in these parameters or in any."""
        names = self._values if names is None else names
        pairs = ((module.get_parameter(name), self._values[name]) for name in names)
        # `.to`: the module may have moved to another device or dtype since.
        return not all(torch.equal(now, before.to(now)) for now, before in pairs)


def load_weights(module: Representation, path: str | Path) -> str:
    """Load a module's weights, and return the sha256 of the file.

    The file holds a state dict, or ``{"state_dict": ...}`` as training programs save it. The
    module's `key_prefixes` are where whole networks keep it; under such a prefix the network's
    other keys are ignored, without one every key must be the module's.

    Raises:
        UsageError: the file is missing, unsafe to read, or does not fit; nothing is loaded
    """
    path = Path(path)
    try:
        state = module.translate_state(read_state(path))
    except ValueError as error:
        raise UsageError(f"{path} does not fit {type(module).__name__}: {error}") from error
    wanted = module.state_dict()
    prefix = _choose_key_prefix(state, wanted, module.key_prefixes)
    weights = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    if prefix:
        weights = {key: value for key, value in weights.items() if key in wanted}
    digest = load_named_weights(module, weights, path)
    # The bound depends on the weights: uint8 storage would clip at that of the untrained ones.
    module.bound = module.estimate_bound()
    return digest


def load_named_weights(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, *, skip: tuple[str, ...] = ()
) -> str:
    """Load weights under a module's own names, and return the sha256 of their file.

    Names and shapes must match, except names that start with a prefix in `skip`, which keep their
    values, and batch counters, which old files do not have.

    Raises:
        UsageError: names or shapes do not match; nothing is loaded
    """
    own = module.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(skip)}
    weights = {key: value for key, value in weights.items() if not key.startswith(skip)}
    problems = _find_weight_problems(weights, wanted)
    if problems:
        raise UsageError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}")
    # `own` supplies skipped names and the counters that old files lack.
    module.load_state_dict(own | weights)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without the name prefixes that wrappers add.

    Raises:
        UsageError: the file is missing, unsafe to read, or holds no state dict
    """
    try:
        # A checkpoint is a pickle: without `weights_only` it could run any code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot read weights: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UsageError(f"{path}: not a weights file that torch can load safely") from error
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
    """Return the prefix with most of the module's keys; the first one on a tie."""
    return max(prefixes, key=lambda prefix: sum(prefix + key in state for key in wanted))


def _find_weight_problems(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """List, in words, the names and shapes that do not fit."""
    missing = [key for key in wanted if key not in weights and not key.endswith(BATCH_COUNTER)]
    unexpected = [key for key in weights if key not in wanted]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, needs {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    problems = [f"missing {shorten_list(missing)}"] if missing else []
    problems += [f"unexpected {shorten_list(unexpected)}"] if unexpected else []
    return problems + ([shorten_list(shapes, max_keys=2)] if shapes else [])


def shorten_list(keys: list[str], max_keys: int = 5) -> str:
    """Join keys for one line of an error message.

    >>> shorten_list(["a", "b", "c"], max_keys=2)
    'a, b and 1 more'
    """
    rest = f" and {len(keys) - max_keys} more" if len(keys) > max_keys else ""
    return ", ".join(keys[:max_keys]) + rest
