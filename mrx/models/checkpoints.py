"""Weights of whole networks by the names of MotionSqueeze's, TSM's and torchvision's code."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mrx.errors import UsageError
from mrx.methods.weights import load_named_weights, read_state

_OTHER_HEADS = {"new_fc", "fc1", "fc", "classifier"}
_UNUSED_PREFIX = "bn2."
"""A batch norm of MotionSqueeze's code that it makes, saves and never applies."""

_REDUCTION_PREFIX = "chnl_reduction."
_INSERTED_PREFIX = "inserted."
_FLAT_BLOCK = re.compile(r"(features\.\d+\.conv)\.(\d+)\.(\w+)")
_WIDENING_PLACES = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
_NOT_WIDENING_PLACES = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
"""Places in a MobileNet block of TSM's code, which has no units in it, and in torchvision's."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a file held.

    Attributes:
        sha256: of the file
        reduction: whether it holds a trained channel reduction of MotionSqueeze; weights of images
            do not, and their maps are matched as they are
    """

    sha256: str
    reduction: bool


def load_checkpoint(
    net: nn.Module, path: str | Path, *, skip: tuple[str, ...] = ()
) -> CheckpointInfo:
    """Load a network's weights from a file of MotionSqueeze's, TSM's or torchvision's code.

    Every name must be in both, but for those that `skip` leaves out, the counters of batches, which
    old files do not have, and a batch norm ``bn2`` that MotionSqueeze's code never applies.

    Args:
        net: a network of this package; where it is refused it stays as it was
        path: a state dict, or ``{"state_dict": ...}`` as training programs save it
        skip: beginnings of names that are neither read nor wanted: ``("fc.",)`` for a head of one's
            own classes, ``("chnl_reduction.", "flow_refinement.")`` to start MSNet from images

    Raises:
        UsageError: the file is not there, cannot be read safely, or does not fit
    """
    path = Path(path)
    state = translate_network_state(read_state(path), net)
    return _load_network_state(net, state, path, skip=skip)


def load_part(module: nn.Module, path: str | Path, *, under: str = "") -> CheckpointInfo:
    """Load one module of a network from the network's file, and leave the rest of the file.

    The file must have all names of the module, and none other in one of its layers: a
    `MotionSqueeze` of the released code's 64 reduced channels finds ``chnl_reduction`` and
    ``flow_refinement`` in a file of that code.

    Args:
        module: where it is refused it stays as it was
        path: a state dict, or ``{"state_dict": ...}`` as training programs save it
        under: where the network keeps the module, as ``"motion_squeeze."`` in `MSMobileNetV2` and
            ``"inserted.Mixed_3c."`` in `I3D`; the released code keeps it at the top

    Raises:
        UsageError: the file is not there, cannot be read safely, or does not fit
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
    return CheckpointInfo(digest, reduction=any(key.startswith(_REDUCTION_PREFIX) for key in state))


def translate_network_state(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A state dict by this package's names, from one by those of other code.

    The shift's wrapper ``.net.`` goes; a head ``fc1`` or ``new_fc``, a layer or a convolution of
    size 1, becomes the network's own; blocks of TSM's MobileNet get torchvision's names.
    """
    found = {
        key.replace(".net.", "."): value
        for key, value in state.items()
        if not key.startswith(_UNUSED_PREFIX)
    }
    head = _find_head_prefix(net)
    own = {key for key in net.state_dict() if key.startswith(head)}
    flat = "features.1.conv.0.weight" in found
    named = {}
    for key, value in found.items():
        name = _translate_unit_name(key) if flat else key
        stem, _, rest = name.rpartition(".")
        if key not in own and stem in _OTHER_HEADS:
            name = head + rest
        is_head = name.startswith(head) and value.ndim == 3
        named[name] = value.squeeze(2) if is_head and value.shape[2] == 1 else value
    return named


def _find_head_prefix(net: nn.Module) -> str:
    """Where a network keeps its last layer; what is inserted into it has no say."""
    layers = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(_INSERTED_PREFIX)
    ]
    if not layers:
        raise UsageError(f"{type(net).__name__} has no last layer: load_checkpoint is for networks")
    return layers[-1] + "."


def _translate_unit_name(key: str) -> str:
    """TSM's name of a MobileNet weight as torchvision's."""
    match = _FLAT_BLOCK.fullmatch(key)
    if match is None:
        return key
    block, place, rest = match.groups()
    places = _NOT_WIDENING_PLACES if block.startswith("features.1.") else _WIDENING_PLACES
    return f"{block}.{places.get(place, place)}.{rest}"
