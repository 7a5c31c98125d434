"""``mrx doctor``: print the versions, devices and kernels of this machine."""

import json
import platform
from typing import Any

import click

from mrx.job import count_cores
from mrx.version import __version__


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Print versions, devices and the kernels in use."""
    facts = examine_machine()
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name:<12} {text}")


def examine_machine() -> dict[str, Any]:
    """Collect the versions, devices, decoders and kernels of this machine."""
    import av
    import cv2
    import h5py
    import torch

    from mrx import kernels
    from mrx.decode import nvdec

    first = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    codecs = [c for c in ("h264", "hevc", "vp9", "libdav1d") if c in av.codecs_available]
    codec_version = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "mrx": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": f"{av.__version__} (libavcodec {codec_version})",
        "opencv": cv2.__version__,
        "h5py": f"{h5py.__version__} (HDF5 {h5py.version.hdf5_version})",
        "cores": str(count_cores()),
        "devices": ["cpu", *gpus, *mps],
        "decoders": codecs,
        "nvdec": nvdec.why_nvdec_unusable(first) or nvdec.name_torchcodec(first),
        "kernels": kernels.list_backends(),
        "triton": kernels.read_package_version("triton") or "not installed",
    }
