"""Faster twins of the few hot formulas, each compared with its plain torch twin by a test.

`choose_backend` chooses the twin that runs on the CPU: ``numba`` before ``opencv`` before
``torch``. The environment variable ``MRX_BACKEND`` forces one, for all methods.
"""

import functools
import hashlib
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from mrx.errors import MissingError, UsageError

Backend = Literal["numba", "opencv", "torch"]

COMPILING_ONLY = "MRX_KERNELS_IN_THE_MAKING"  # set in processes that only compile
_BACKENDS: tuple[Backend, ...] = get_args(Backend)
_PACKAGES = {"numba": "numba", "opencv": "cv2", "torch": "torch"}
_log = logging.getLogger(__name__)
_process_backend = "auto"  # see `set_backend`


@functools.cache
def has_backend(name: Backend) -> bool:
    """Tell if the package of a backend can be imported; tried once."""
    try:
        importlib.import_module(_PACKAGES[name])
    # A numba that does not fit the installed numpy raises more than ImportError.
    except (ImportError, AttributeError, SystemError, OSError) as error:
        _log.debug("backend %s is not available: %s", name, error)
        return False
    return True


def set_backend(choice: str) -> str:
    """Set the backend of all threads of this process, and return the one that was set before.

    ``auto`` leaves the choice open.
    """
    # A context variable would not reach the threads that pack and decode.
    global _process_backend
    before, _process_backend = _process_backend, choice
    return before


def choose_backend(choice: Backend | Literal["auto"] | None = None) -> Backend:
    """Return the backend to run on the CPU.

    It is the choice, else that of `set_backend`, else ``MRX_BACKEND``, else the fastest installed.
    """
    wanted = choice or _process_backend
    if wanted == "auto":
        wanted = os.environ.get("MRX_BACKEND") or "auto"
    for name in _BACKENDS:
        if wanted in ("auto", name) and has_backend(name):
            return name
    if wanted in _BACKENDS:
        raise MissingError(f"backend {wanted}: {_PACKAGES[wanted]} cannot be imported here")
    raise UsageError(f"backend {wanted}: choose from auto, {', '.join(_BACKENDS)}")


def list_backends() -> list[str]:
    """List the available backends, the one in use first."""
    used = choose_backend()
    others = [name for name in get_args(Backend) if name != used and has_backend(name)]
    return [used, *others]


def read_package_version(package: str) -> str | None:
    """Return the version of a package without importing it, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compile_function(
    function: Callable[..., Any],
    *parts: Callable[..., Any],
    warm_up: Callable[[Callable[..., Any]], object],
    compiler_name: str,
) -> Callable[..., Any]:
    """Compile a function and those it calls by numba, cached on disk if possible.

    Args:
        function: the function to compile
        parts: the functions that it calls
        warm_up: calls the compiled function once, with arguments of the types to compile it for
        compiler_name: name of the function in that module that another process calls to compile
    """
    import numba
    from numba.extending import register_jitable

    # fastmath lets LLVM reorder the sums of floats, without which it cannot vectorize them. It also
    # assumes that no float is NaN or infinite: `mrx.kernels.summary` finds those by their bits.
    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    for part in parts:
        register_jitable(**options)(part)
    try:
        compiled = numba.njit(cache=True, **options)(function)
        mark = _locate_mark(function, Path(compiled.stats.cache_path))
        # Always load the code from disk, even the first time. In the process that compiles it, the
        # parts exist alone as well and calls bind to those, which are optimized once less and
        # round differently.
        if parts and not mark.exists() and _compile_elsewhere(function.__module__, compiler_name):
            mark.touch()
        warm_up(compiled)
    except (RuntimeError, OSError):
        # The cache cannot be written: compile for this process alone.
        compiled = numba.njit(**options)(function)
        warm_up(compiled)
    return compiled


def _locate_mark(function: Callable[..., Any], folder: Path) -> Path:
    """Return the path of the marker that records a finished build for this CPU."""
    import numba
    from llvmlite.binding import get_host_cpu_name

    source = Path(function.__code__.co_filename)
    made_for = f"{numba.__version__} {get_host_cpu_name()} {sys.version_info[:2]}"
    digest = hashlib.sha256(source.read_bytes() + made_for.encode()).hexdigest()
    return folder / f"{source.stem}.{function.__qualname__}.{digest[:16]}.made"


def _compile_elsewhere(module: str, compiler_name: str) -> bool:
    """Compile and cache in another process; return False if that fails or this is that process."""
    if os.environ.get(COMPILING_ONLY):
        return False
    # The other process must find this same source, wherever the current one found it.
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", f"from {module} import {compiler_name}; {compiler_name}()"]
    environment = {**os.environ, "PYTHONPATH": paths, COMPILING_ONLY: "1"}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        _log.debug("%s.%s is compiled in this process: %s", module, compiler_name, error)
        return False
    return True
