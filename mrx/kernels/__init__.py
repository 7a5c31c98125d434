"""Faster twins of the few hot formulas, each held to its plain torch twin by a test.

`choose_backend` says which kind of twin runs on the CPU: ``numba`` before ``opencv`` before ``torch``.
The environment variable ``MRX_BACKEND`` forces one, for all methods.
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


@functools.cache
def has_backend(name: Backend) -> bool:
    """Whether the package behind a backend can be imported, tried once.

    A numba that does not fit the installed numpy fails at import, and not only with ImportError.
    """
    try:
        importlib.import_module(_PACKAGES[name])
    except (ImportError, AttributeError, SystemError, OSError) as error:
        _log.debug("backend %s is not there: %s", name, error)
        return False
    return True


def choose_backend(choice: Backend | Literal["auto"] | None = None) -> Backend:
    """The backend to run on the CPU: the choice, else ``MRX_BACKEND``, else the fastest there."""
    wanted = choice or os.environ.get("MRX_BACKEND") or "auto"
    for name in _BACKENDS:
        if wanted in ("auto", name) and has_backend(name):
            return name
    if wanted in _BACKENDS:
        raise MissingError(f"backend {wanted}: {_PACKAGES[wanted]} cannot be imported here")
    raise UsageError(f"backend {wanted}: choose from auto, {', '.join(_BACKENDS)}")


def list_backends() -> list[str]:
    """The backends that are there, the one in use first."""
    used = choose_backend()
    others = [name for name in get_args(Backend) if name != used and has_backend(name)]
    return [used, *others]


def read_package_version(package: str) -> str | None:
    """The version of an optional package, without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compile_function(
    function: Callable[..., Any],
    *parts: Callable[..., Any],
    trial: Callable[[Callable[..., Any]], object],
    maker: str,
) -> Callable[..., Any]:
    """A function and those it calls as machine code, by numba; kept on disk where that is possible.

    What is kept is always loaded, never used where it was made: there the parts stand alone as well
    and calls bind to those, which are optimized once less and round differently.

    Args:
        function: what is called from outside
        parts: the functions that it calls
        trial: calls the function once, with arguments of the types to compile it for
        maker: the function of its module that comes here, as another process is to call it
    """
    import numba
    from numba.extending import register_jitable

    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    for part in parts:
        register_jitable(**options)(part)
    try:
        compiled = numba.njit(cache=True, **options)(function)
        mark = _locate_mark(function, Path(compiled.stats.cache_path))
        if parts and not mark.exists() and _compile_elsewhere(function.__module__, maker):
            mark.touch()
        trial(compiled)
    except (RuntimeError, OSError):
        compiled = numba.njit(**options)(function)
        trial(compiled)
    return compiled


def _locate_mark(function: Callable[..., Any], folder: Path) -> Path:
    """The file beside numba's that says that code of this source was made for this machine."""
    import numba
    from llvmlite.binding import get_host_cpu_name

    source = Path(function.__code__.co_filename)
    made_for = f"{numba.__version__} {get_host_cpu_name()} {sys.version_info[:2]}"
    digest = hashlib.sha256(source.read_bytes() + made_for.encode()).hexdigest()
    return folder / f"{source.stem}.{function.__qualname__}.{digest[:16]}.made"


def _compile_elsewhere(module: str, maker: str) -> bool:
    """Have another process make machine code and keep it; where that fails, it is made here."""
    if os.environ.get(COMPILING_ONLY):
        return False
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", f"from {module} import {maker}; {maker}()"]
    environment = {**os.environ, "PYTHONPATH": paths, COMPILING_ONLY: "1"}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        _log.debug("%s.%s is made here: %s", module, maker, error)
        return False
    return True
