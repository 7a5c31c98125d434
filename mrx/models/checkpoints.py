"""Checkpoints of whole networks, in the names of MotionSqueeze's, TSM's or torchvision's code."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mrx.errors import UsageError
from mrx.methods.ms_features import REDUCTION_PREFIX
from mrx.methods.weights import load_named_weights, read_state

_OTHER_HEADS = {"new_fc", "fc1", "fc", "classifier"}
_UNUSED_PREFIX = "bn2."
"""A batch norm that MotionSqueeze's code saves but never applies."""

_INSERTED_PREFIX = "inserted."
_FLAT_BLOCK = re.compile(r"(features\.\d+\.conv)\.(\d+)\.(\w+)")
_WIDENING_PLACES = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
_NOT_WIDENING_PLACES = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
"""Layer numbers in a MobileNet block: TSM's flat ones, and torchvision's nested ones."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Facts about a loaded checkpoint.

    Attributes:
        sha256: of the file
        reduction: true if it holds a trained channel reduction of MotionSqueeze; image weights have
            none, and their maps are matched unreduced
    """

    sha256: str
    reduction: bool


def load_checkpoint(
    net: nn.Module, path: str | Path, *, skip: tuple[str, ...] = ()
) -> CheckpointInfo:
    """Load a network's weights from a file of MotionSqueeze's, TSM's or torchvision's code.

    Names must match, except those in `skip`, batch counters, which old files do not have, and a
    batch norm ``bn2`` that MotionSqueeze's code never applies.

    Args:
        net: a network of this package; unchanged on errors
        path: a state dict, or ``{"state_dict": ...}`` as training programs save it
        skip: prefixes of names to ignore in both: ``("fc.",)`` for a head with other classes,
            ``("chnl_reduction.", "flow_refinement.")`` to start MSNet from image weights

    Raises:
        UsageError: the file is missing, unsafe to read, or does not fit
    """
    path = Path(path)
    state = translate_network_state(read_state(path), net)
    return _load_network_state(net, state, path, skip=skip)


def load_part(module: nn.Module, path: str | Path, *, under: str = "") -> CheckpointInfo:
    """Load one module of a network from the network's file.

    The file must have all names of the module, and no others in the module's layers. For example, a
    `MotionSqueeze` with the released code's 64 reduced channels loads ``chnl_reduction`` and
    ``flow_refinement`` from a file of that code.

    Args:
        module: the module to load; unchanged on errors
        path: a state dict, or ``{"state_dict": ...}`` as training programs save it
        under: prefix of the module's names: ``"motion_squeeze."`` in `MSMobileNetV2`,
            ``"inserted.Mixed_3c."`` in `I3D`, empty in the released code

    Raises:
        UsageError: the file is missing, unsafe to read, or does not fit
    """
    path = Path(path)
    state = read_state(path)
    own = {key.removeprefix(under): value for key, value in state.items() if key.startswith(under)}
    layers = tuple(f"{name}." for name, _ in module.named_children())
    return _load_network_state(module, {k: v for k, v in own.items() if k.startswith(layers)}, path)


def _load_network_state(
    net: nn.Module, state: dict[str, Tensor], path: Path, *, skip: tuple[str, ...] = ()
) -> CheckpointInfo:
    digest = load_named_weights(net, state, path, skip=skip)
    return CheckpointInfo(digest, reduction=any(key.startswith(REDUCTION_PREFIX) for key in state))


def translate_network_state(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Rename the weights of other code to this package's names.

    It removes the shift's wrapper ``.net.``, renames a head ``fc1`` or ``new_fc``, linear or a
    convolution of size 1, to the network's own, and gives blocks of TSM's MobileNet torchvision's
    names.
    """
    weights = {
        key.replace(".net.", "."): value
        for key, value in state.items()
        if not key.startswith(_UNUSED_PREFIX)
    }
    head = _find_head_prefix(net)
    own = {key for key in net.state_dict() if key.startswith(head)}
    # TSM's MobileNet has a convolution at this name, torchvision's a unit of three layers.
    flat = "features.1.conv.0.weight" in weights
    named = {}
    for key, value in weights.items():
        name = _translate_unit_name(key) if flat else key
        stem, _, rest = name.rpartition(".")
        if key not in own and stem in _OTHER_HEADS:
            name = head + rest
        # A head as a convolution over time: (classes, C, 1) -> (classes, C)
        is_head = name.startswith(head) and value.ndim == 3
        named[name] = value.squeeze(2) if is_head and value.shape[2] == 1 else value
    return named


def _find_head_prefix(net: nn.Module) -> str:
    """Return the prefix of the network's last linear layer."""
    # Inserted modules may have linear layers of their own.
    layers = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(_INSERTED_PREFIX)
    ]
    if not layers:
        raise UsageError(
            f"{type(net).__name__} has no linear layer: use load_part for single modules"
        )
    return layers[-1] + "."


def _translate_unit_name(key: str) -> str:
    """Return torchvision's name of a MobileNet weight in TSM's code.

    >>> _translate_unit_name("features.2.conv.3.weight")
    'features.2.conv.1.0.weight'
    """
    match = _FLAT_BLOCK.fullmatch(key)
    if match is None:
        return key
    block, place, rest = match.groups()
    places = _NOT_WIDENING_PLACES if block.startswith("features.1.") else _WIDENING_PLACES
    return f"{block}.{places.get(place, place)}.{rest}"
