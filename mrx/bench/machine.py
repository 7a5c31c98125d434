"""Facts about the machine that a benchmark runs on."""

import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mrx.pipeline.hardware import read_library_versions
from mrx.version import __version__


def read_load_average() -> float | None:
    """Return the load average of the last minute, or None on systems without one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def collect_machine_facts(device: torch.device, load_before: float | None) -> dict[str, Any]:
    """Return the machine's names, load and versions, as they stand in the JSON output.

    Args:
        device: the device that was measured
        load_before: the load average before the measurements
    """
    return {
        "device": _find_device_name(device),
        "cpu": _find_cpu_name(),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": read_load_average(),
        "versions": {
            "mrx": __version__,
            "python": platform.python_version(),
            **read_library_versions(),
        },
    }


def _find_device_name(device: torch.device) -> str:
    if device.type in ("cpu", "mps"):
        return _find_cpu_name()
    return str(torch.cuda.get_device_name(device))


def _find_cpu_name() -> str:
    # Linux names the model in /proc only; platform.processor() is empty or "x86_64" there.
    with suppress(OSError):
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if model:
            return model[1]
    return platform.processor() or platform.machine()
