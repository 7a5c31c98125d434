"""The names that other code may rely on. A name is removed only by editing these lists."""

import dataclasses
import importlib
import inspect

import pytest

import mrx
from mrx import job, render
from mrx.engines import run
from mrx.methods.spec import Method, Representation
from mrx.methods.table import ENTRY_POINT_GROUP, METHOD_MODULES

CLASSES = {
    "mrx.engines.run": ["Limits", "Listener", "Summary"],
    "mrx.job": ["Decoding", "Job", "Source", "Storage", "Windowing"],
    "mrx.methods.dynamic_image": ["METHOD", "DynamicImage"],
    "mrx.methods.mbpm": ["MBPM", "METHOD"],
    "mrx.methods.motion_squeeze": ["MotionSqueeze"],
    "mrx.methods.ms": ["METHOD", "MS"],
    "mrx.methods.pa": ["METHOD", "PA"],
    "mrx.methods.spec": ["Method", "Representation"],
    "mrx.methods.tvl1": ["METHOD", "TVL1"],
    "mrx.methods.tvnet": ["METHOD", "TVNet"],
}
RENDER = [
    "Picture",
    "STYLES",
    "Scale",
    "Style",
    "UNKNOWN",
    "Values",
    "arrow_legend",
    "bar_legend",
    "color_bar",
    "color_wheel",
    "confidence_to_rgb",
    "displacement_to_rgb",
    "diverging_to_rgb",
    "draw_text",
    "filters_to_rgb",
    "flow_to_hsv",
    "flow_to_rgb",
    "frame_to_rgb",
    "grid",
    "heat_to_rgb",
    "hue_to_rgb",
    "inset",
    "kernel_map",
    "kind_of",
    "label",
    "legend",
    "magnitude",
    "measure",
    "new_scale",
    "overlay",
    "parts",
    "picture",
    "quiver",
    "robust_maximum",
    "signed_to_rgb",
    "surface",
    "to_ascii",
    "weights_row",
    "wheel_legend",
]
FIELDS = {
    job.Decoding: (
        *("short_side", "size", "upscale", "fps", "start", "end", "rotate", "on_error"),
        *("image_fps", "max_pixels", "decoder"),
    ),
    job.Windowing: ("step", "dilation", "segments", "tail"),
    job.Storage: (
        *("dtype", "bound", "tolerance", "compression", "videos_per_shard", "shard_size"),
    ),
    job.Job: (
        *("output", "methods", "parameters", "weights", "stack", "decoding", "windowing"),
        *("storage", "devices", "batch", "decode_threads", "backend", "share", "overwrite"),
        "dry_run",
    ),
    run.Limits: ("timeout", "max_failures", "retry_failed", "missing_ok"),
    run.Summary: (
        *("output", "inputs", "ok", "skipped", "failed", "planned", "before", "failed_before"),
        *("salvaged", "frames", "bytes", "duration", "free_bytes", "seconds", "signal", "stopped"),
        *("warnings", "shards", "workers"),
    ),
}
EXTRACT_PARAMETERS = [
    *("inputs", "output", "method", "parameters", "weights", "decoding", "windowing", "storage"),
    *("device", "workers", "batch", "decode_threads", "backend", "overwrite", "limits"),
    "listener",
]
HOOKS = {
    Representation: [
        *("check_clip", "collect_facts", "covered_size"),
        *("describe_dilation_problem", "estimate_bound", "extract"),
        *("output_shape", "prepare", "translate_state"),
        *("across_segments", "bound", "channels", "color", "dilation", "key_prefixes", "length"),
        *("smallest", "step", "units"),
    ],
    Method: [
        *("build_module", "complete_parameters", "list_parameters"),
        *("cost", "module", "name", "paper", "summary", "version"),
    ],
    run.Listener: ["begin", "frames", "note", "row", "sealed"],
}


def test_the_package_offers_its_names():
    assert mrx.__all__ == ["Listener", "extract", "open"]
    assert list(inspect.signature(mrx.extract).parameters) == EXTRACT_PARAMETERS
    assert list(inspect.signature(mrx.open).parameters) == ["path"]


@pytest.mark.parametrize("module", CLASSES)
def test_a_module_offers_its_classes(module):
    assert set(CLASSES[module]) <= vars(importlib.import_module(module)).keys()


@pytest.mark.parametrize("base", HOOKS, ids=lambda base: base.__name__)
def test_a_base_class_offers_its_hooks(base):
    names = vars(base).keys() | inspect.get_annotations(base).keys()
    assert sorted(n for n in names if not n.startswith("_")) == sorted(HOOKS[base])


@pytest.mark.parametrize("settings", FIELDS, ids=lambda settings: settings.__name__)
def test_settings_keep_their_fields(settings):
    assert tuple(field.name for field in dataclasses.fields(settings)) == FIELDS[settings]


def test_render_offers_its_functions():
    offered = {
        name
        for name, value in vars(render).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(offered) == RENDER


def test_methods_are_found_by_name():
    assert list(METHOD_MODULES) == ["mbpm", "dynamic-image", "pa", "tvl1", "tvnet", "ms"]
    assert ENTRY_POINT_GROUP == "mrx.methods"
