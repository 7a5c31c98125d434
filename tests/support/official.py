"""State dicts as the official codes name and shape them, with weights by the golden files' rule."""

import zlib

import numpy as np
import torch

from mrx.backbones.shift import TemporalShift


def draw(tag, key, shape):
    """The weights of one name, by the rule of the golden files of whole nets."""
    seed = zlib.crc32((tag + key).encode()) & 0x7FFFFFFF
    n = np.random.RandomState(seed).standard_normal(shape)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif len(shape) == 1:
        n = 0.1 * n + (1 if key.endswith("weight") else 0)
    else:
        n = n * np.sqrt(1 / np.prod(shape[1:]))
    return torch.from_numpy(n).float()


def motion_squeeze_state(net, file):
    """The state dict of MotionSqueeze's own code for a golden file of a whole net."""
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    shapes |= {f"bn2.{k}": (128,) for k in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"fc1.weight": (*shapes["fc.weight"], 1), "fc1.bias": shapes["fc.bias"]}
    return {
        key: torch.tensor(0)
        if key.endswith("tracked")
        else draw(str(file["tag"]), key, shapes[key])
        for key in map(str, file["keys"])
    }


def clip_of(file):
    """The frames of a golden file as one normalised clip (1, T, 3, H, W)."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    return ((torch.from_numpy(file["x"]).float() / 255 - mean) / std)[None]


def wrapped_by_tsm(net, state):
    """A state dict in which the convolutions that take shifted maps are wrapped, as TSM does it."""
    blocks = [name for name, module in net.named_modules() if isinstance(module, TemporalShift)]
    convs = [f"{name.removesuffix('.shift')}.{c}." for name in blocks for c in ("conv1", "conv.0")]

    def wrap(key):
        conv = next((c for c in convs if key == f"{c}weight"), None)
        return f"{conv}net.weight" if conv else key

    return {wrap(key): value for key, value in state.items()}


def save_official(state, path):
    """A checkpoint as the authors' code saves it, its network in two wrappers."""
    wrapped = {f"module.base_model.{key}": value for key, value in state.items()}
    torch.save({"epoch": 1, "arch": "MS", "state_dict": wrapped, "best_prec1": 0.5}, path)
