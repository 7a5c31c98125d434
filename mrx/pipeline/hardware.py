"""A worker's device and process settings, and the library versions that may change numbers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import cv2
import numpy as np
import torch

from mrx import kernels
from mrx.decode import pyav
from mrx.errors import MissingError, UsageError


@dataclass
class _ProcessSettings:
    """Settings of torch, OpenCV and FFmpeg's log shared by the runs of this process.

    Attributes:
        active_runs: the number of present runs
        backend: the backend that they use
        own_backend, torch_threads, opencv_threads, precision, log: the values before the first run
    """

    active_runs: int = 0
    backend: str = "auto"
    own_backend: str = "auto"
    torch_threads: int = 1
    opencv_threads: int = 1
    precision: tuple[Any, ...] = (True,)
    log: pyav.LogSettings = field(default_factory=pyav.read_log_settings)
    lock: threading.Lock = field(default_factory=threading.Lock)


_settings = _ProcessSettings()
_thread = threading.local()  # `runs`: the number of runs that this thread is in


@contextmanager
def configure_process(backend: str = "auto", *, threads: int | None = 1) -> Iterator[None]:
    """Set this process up for reproducible numbers, and restore its settings on exit.

    Args:
        backend: the kernels to use; see `mrx.kernels.choose_backend`
        threads: threads of torch and of OpenCV; None leaves theirs
    """
    _enter_run(backend, threads)
    try:
        kernels.choose_backend()  # refuses a wrong choice before any work
        yield
    finally:
        _leave_run()


def _enter_run(backend: str, threads: int | None) -> None:
    with _settings.lock:
        if _settings.active_runs and _settings.backend != backend:
            raise UsageError(
                f"backend {backend}: another run of this process uses {_settings.backend}. "
                "Wait for it, or use worker processes"
            )
        if not _settings.active_runs:
            _settings.torch_threads = torch.get_num_threads()
            _settings.opencv_threads = cv2.getNumThreads()
            _settings.precision = _read_precision()
            _settings.log = pyav.read_log_settings()
            _settings.backend = backend
            _settings.own_backend = kernels.set_backend(backend)
        _settings.active_runs += 1
        _thread.runs = getattr(_thread, "runs", 0) + 1
        if threads is not None:
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        # TF32 would round what the CPU does not.
        torch.backends.cudnn.allow_tf32 = False


def _leave_run() -> None:
    with _settings.lock:
        _settings.active_runs -= 1
        _thread.runs -= 1
        # Torch keeps a number for each thread that has computed.
        if not _thread.runs:
            torch.set_num_threads(_settings.torch_threads)
        # Of runs in several threads, the last one out restores: an earlier one would change the
        # settings under those that still compute.
        if not _settings.active_runs:
            kernels.set_backend(_settings.own_backend)
            cv2.setNumThreads(_settings.opencv_threads)
            _restore_precision(_settings.precision)
            pyav.restore_log_settings(_settings.log)


def _read_precision() -> tuple[Any, ...]:
    """Return cuDNN's settings of TF32: the old one, or two new ones if the caller uses those."""
    cudnn: Any = torch.backends.cudnn
    try:
        return (cudnn.allow_tf32,)
    except RuntimeError:  # torch refuses to read the old one once the new ones differ
        return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def _restore_precision(precision: tuple[Any, ...]) -> None:
    cudnn: Any = torch.backends.cudnn
    if len(precision) == 1:
        (cudnn.allow_tf32,) = precision
    else:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = precision


def read_library_versions() -> dict[str, str]:
    """Return the versions of the libraries that may change a number."""
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
    """Return the device of a name; `auto` is the first GPU, or the CPU without one."""
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
    return torch.device(wanted)
