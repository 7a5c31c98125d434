"""The machine that a worker runs on: its device, and the versions that decide numbers."""

import av
import cv2
import numpy as np
import torch

from mrx import kernels
from mrx.errors import MissingError


def read_library_versions() -> dict[str, str]:
    """The libraries whose version may move a number."""
    libraries = {
        n: ".".join(map(str, av.library_versions[n])) for n in ("libavcodec", "libswscale")
    }
    packages = {"torch": torch, "av": av, "opencv": cv2, "numpy": np}
    optional = {n: kernels.read_package_version(n) or "none" for n in ("numba", "triton")}
    kernel_versions = {"kernels": kernels.choose_backend(), **optional}
    return (
        {n: str(package.__version__) for n, package in packages.items()}
        | libraries
        | kernel_versions
    )


def choose_device(name: str) -> torch.device:
    """The device that was asked for; `auto` is the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = ["cpu", *(f"cuda:{i}" for i in range(count))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    names = {"auto": "cuda:0" if count else "cpu", "cuda": "cuda:0"}
    wanted = names.get(name, name)
    if wanted not in available:
        available_names = ", ".join(available)
        raise MissingError(
            f"no device {name}: this machine has {available_names}. Use --device cpu"
        )
    torch.backends.cudnn.allow_tf32 = False  # TF32 would round what the CPU does not
    return torch.device(wanted)
