import numpy as np
import torch

from support.places import GOLDEN


def load_golden(name):
    """The tensors of an appearance vector."""
    with np.load(GOLDEN / f"appearance_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def assert_within(found, expected, share):
    """Within a share of the largest expected value."""
    worst = (found - expected).abs().max().item()
    assert worst <= share * expected.abs().max().item()
