"""Make state dicts in the format of the official code, with the weights of the golden files."""

import zlib

import numpy as np
import torch

from mrx.backbones.shift import TemporalShift


def draw_weights(tag, key, shape):
    """Draw the weights of one key in the way in which the golden files of whole nets were made."""
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
    """Make the state dict of the official MotionSqueeze code for a golden file of a whole net."""
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    shapes |= {f"bn2.{k}": (128,) for k in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"fc1.weight": (*shapes["fc.weight"], 1), "fc1.bias": shapes["fc.bias"]}
    return {
        key: torch.tensor(0)
        if key.endswith("tracked")
        else draw_weights(str(file["tag"]), key, shapes[key])
        for key in map(str, file["keys"])
    }


def clip_of(file):
    """Return the frames of a golden file as one normalized clip (1, T, 3, H, W)."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    return ((torch.from_numpy(file["x"]).float() / 255 - mean) / std)[None]


def wrapped_by_tsm(net, state):
    """Rename the weights of convolutions after a temporal shift as the wrapper of TSM does."""
    blocks = [name for name, module in net.named_modules() if isinstance(module, TemporalShift)]
    convs = [f"{name.removesuffix('.shift')}.{c}." for name in blocks for c in ("conv1", "conv.0")]

    def wrap(key):
        conv = next((c for c in convs if key == f"{c}weight"), None)
        return f"{conv}net.weight" if conv else key

    return {wrap(key): value for key, value in state.items()}


def save_official(state, path):
    """Save a checkpoint in the format of the official code, with its two prefixes of names."""
    wrapped = {f"module.base_model.{key}": value for key, value in state.items()}
    torch.save({"epoch": 1, "arch": "MS", "state_dict": wrapped, "best_prec1": 0.5}, path)
