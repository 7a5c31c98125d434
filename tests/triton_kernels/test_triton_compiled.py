"""Registers, spills and instructions of the kernels, compiled without a GPU.

`RECORDED` holds the figures by release of Triton; ``python test_triton_compiled.py`` in this folder
prints those of the installed one.
"""

import collections
import pprint
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.triton_marks import HAS_TRITON, compiled

from mrx.kernels import tvl1_launch
from mrx.kernels.tvl1_launch import STEP_SHAPES, TILE_SHAPES

if HAS_TRITON:
    import triton

pytestmark = compiled

TARGETS = 80, 90, 100
STATE = {"flow", "dual", "new_flow", "new_dual"}
TYPES = {
    **dict.fromkeys(("height", "width", "pitch", "launch"), "i32"),
    **dict.fromkeys(("bound", "theta", "rate", "guard", "cubic"), "fp32"),
    "limit": "i64",
    "changes": "*i64",
}
AT_REST = {"changes": None}  # launched without a stop


def _iterate(shape, **options):
    constants = {"rows": shape.rows, "columns": shape.columns, "iterations": shape.iterations}
    return "iterate_kernel", {**constants, **options}, shape.warps


def _rows(name, **options):
    return name, {"rows": 1, "columns": 256, **options}, 4


KERNELS = {
    "step": _iterate(STEP_SHAPES[0], **AT_REST),
    "step that stops": _iterate(STEP_SHAPES[0]),
    "step 8x32 that stops": _iterate(STEP_SHAPES[3]),
    "tile 64x32": _iterate(TILE_SHAPES[0], **AT_REST),
    "tile 32x64": _iterate(TILE_SHAPES[1], **AT_REST),
    "tile 64x32 that stops": _iterate(TILE_SHAPES[0]),
    "tile 32x64 that stops": _iterate(TILE_SHAPES[1]),
    "warp": _rows("warp_kernel", zero=False, mixed=True, masked=True),
    "warp of opencv": _rows("warp_kernel", zero=True, mixed=False, masked=False),
    "median of 9": _rows("median_kernel", side=3, **AT_REST),
    "median of 25": _rows("median_kernel", side=5, **AT_REST),
    "median of 25 that stops": _rows("median_kernel", side=5),
}
"""Name, constants and warps of all launches of `GpuLevel`, except for some shapes of steps."""

RECORDED = {
    "3.9": {
        "step": {80: (53, 0, 300.0), 90: (48, 0, 300.0), 100: (52, 0, 296.0)},
        "step that stops": {90: (48, 0, 368.0)},
        "step 8x32 that stops": {90: (48, 0, 368.0)},
        "tile 64x32": {80: (179, 0, 90.375), 90: (180, 0, 89.875), 100: (180, 0, 76.25)},
        "tile 32x64": {80: (176, 0, 91.75), 90: (174, 0, 92.125), 100: (175, 0, 77.875)},
        "tile 64x32 that stops": {90: (243, 0, 99.0)},
        "tile 32x64 that stops": {90: (230, 0, 98.375)},
        "warp": {80: (50, 0, 316.0), 90: (66, 0, 300.0), 100: (72, 0, 288.0)},
        "warp of opencv": {80: (56, 0, 328.0), 90: (56, 0, 332.0), 100: (56, 0, 308.0)},
        "median of 9": {80: (32, 0, 84.0), 90: (32, 0, 84.0), 100: (32, 0, 80.0)},
        "median of 25": {80: (56, 0, 256.0), 90: (56, 0, 256.0), 100: (56, 0, 248.0)},
        "median of 25 that stops": {90: (56, 0, 272.0)},
    },
    "3.6": {
        "step": {80: (48, 0, 340.0), 90: (48, 0, 344.0), 100: (55, 0, 344.0)},
        "step that stops": {90: (56, 0, 428.0)},
        "step 8x32 that stops": {90: (56, 0, 432.0)},
        "tile 64x32": {80: (229, 0, 93.75), 90: (232, 0, 93.625), 100: (222, 0, 79.5)},
        "tile 32x64": {80: (204, 0, 93.0), 90: (210, 0, 92.75), 100: (208, 0, 77.875)},
        "tile 64x32 that stops": {90: (240, 0, 97.0)},
        "tile 32x64 that stops": {90: (244, 0, 98.375)},
        "warp": {80: (66, 0, 508.0), 90: (72, 0, 532.0), 100: (72, 0, 532.0)},
        "warp of opencv": {80: (66, 0, 520.0), 90: (66, 0, 528.0), 100: (72, 0, 528.0)},
        "median of 9": {80: (32, 0, 100.0), 90: (32, 0, 100.0), 100: (32, 0, 96.0)},
        "median of 25": {80: (62, 0, 288.0), 90: (66, 0, 284.0), 100: (70, 0, 280.0)},
        "median of 25 that stops": {90: (64, 0, 300.0)},
    },
}
"""Registers, bytes of stack and instructions a pixel, by release, kernel and target."""


CASES = [(k, t) for k in KERNELS for t in TARGETS if t == 90 or "that stops" not in k]


def compile_kernel(kernel, target, *, storage="fp32", width_of_sixteens=False):
    """Return registers, bytes of stack and instructions a pixel, per iteration if it iterates."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    name, constants, warps = KERNELS[kernel]
    function = tvl1_launch._import_kernels()[name]
    signature = {
        parameter: "constexpr"
        if parameter in constants
        else TYPES.get(parameter, f"*{storage if parameter in STATE else 'fp32'}")
        for parameter in function.arg_names
    }
    sixteens = {"pitch", "width"} if width_of_sixteens else {"pitch"}
    kinds = enumerate(signature.items())
    aligned = [i for i, (n, kind) in kinds if kind[0] == "*" or n in sixteens]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    return _usage(made.asm["cubin"], constants["rows"] * constants["columns"] / (32 * warps))


def _usage(cubin, pixels):
    """Return registers, bytes of stack and instructions a pixel of a binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return int(registers), int(stack), _instructions(code) / pixels


def _tool(name, *words):
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [str(folder / name), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _instructions(code):
    """Count the instructions of the shortest iteration loop, or all if there is none."""
    # An iteration takes at least four roots and reciprocals (MUFU).
    places, loops, names = {}, [], []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            places[label[1]] = len(names)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)(.*)", line):
            names.append(found[1])
            target = re.search(r"\.L_\w+", found[2])
            if found[1] == "BRA" and target and target[0] in places:
                loops.append(names[places[target[0]] :])
    hot = [len(loop) for loop in loops if collections.Counter(loop)["MUFU"] >= 4]
    return min(hot, default=len(names))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "target"), CASES)
def test_a_kernel_needs_at_most_the_recorded_resources(kernel, target):
    release = ".".join(triton.__version__.split(".")[:2])
    found = compile_kernel(kernel, target)
    assert found[1] <= 64, "spills"
    if kernel == "step":
        assert found[0] <= 64
        assert found[1] == 0
    if release not in RECORDED:
        pytest.skip(f"nothing is recorded for Triton {release}; the fixed limits hold")
    registers, stack, instructions = RECORDED[release][kernel][target]
    assert found[0] <= registers
    assert found[1] <= stack
    assert found[2] <= 1.05 * instructions


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["step", "tile 64x32"])
def test_a_state_in_half_precision_spills_no_more(kernel):
    assert compile_kernel(kernel, 90, storage="fp16")[1] <= 64


@pytest.mark.slow
def test_loads_of_several_values_leave_enough_registers():
    registers, stack, _ = compile_kernel("step", 90, width_of_sixteens=True)
    assert registers <= 64
    assert stack == 0


if __name__ == "__main__":
    found = collections.defaultdict(dict)
    for kernel, target in CASES:
        found[kernel][target] = compile_kernel(kernel, target)
    pprint.pp({triton.__version__: dict(found)}, width=100)
