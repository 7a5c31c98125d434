"""A method of a run: its module on a device, its windows, and how its maps are stored."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from mrx import methods
from mrx.errors import UsageError
from mrx.job import Job
from mrx.methods.spec import Method, Representation
from mrx.methods.weights import load_weights
from mrx.pipeline.transfer import move_windows
from mrx.records import Clips, Motion
from mrx.shards.compression import dataset_options
from mrx.shards.encoding import Encoding
from mrx.windows.plan import WindowRule


@dataclass(frozen=True)
class MethodRun:
    """A method of the run: its module, its windows, and how its maps are stored."""

    method: Method
    module: Representation
    parameters: dict[str, Any]
    rule: WindowRule
    encoding: Encoding
    dataset_options: dict[str, Any]

    @classmethod
    def from_job(cls, job: Job, name: str, device: torch.device) -> "MethodRun":
        """Make a method ready, with the parameters, weights and windows that the job asks for."""
        method = methods.find_method(name)
        given = job.parameters.get(name, {})
        if job.stack is not None and "stack" in method.list_parameters():
            if given.get("stack", str(job.stack)) != str(job.stack):
                raise UsageError(f"{name}: stack={job.stack} and stack={given['stack']}: say one")
            given = {**given, "stack": str(job.stack)}
        parameters = method.complete_parameters(given)
        module = method.build_module(parameters)
        if name in job.weights:
            parameters = {**parameters, "weights": load_weights(module, job.weights[name])}
        windowing = job.windowing
        rule = WindowRule(
            length=module.length,
            step=module.step if windowing.step is None else windowing.step,
            dilation=module.dilation if windowing.dilation is None else windowing.dilation,
            segments=windowing.segments,
            across_segments=windowing.segments is not None
            and windowing.dilation is None
            and module.across_segments,
            tail=windowing.tail,
        )
        if job.storage.dtype == "uint8" and any("confidence" in c for c in module.channels):
            raise UsageError(
                f"dtype uint8 has no steps for {name}'s confidence: take float16 or q16"
            )
        encoding = Encoding.from_storage(job.storage, units=module.units, bound=module.bound)
        cost = method.cost if device.type == "cpu" else "light"  # none is heavy beside a device
        storage_filters = dataset_options(job.storage.compression, cost=cost)
        return cls(method, module.to(device), parameters, rule, encoding, storage_filters)

    def collect_settings(self) -> dict[str, Any]:
        """What decides the numbers, beside what all methods share."""
        return {**self.parameters, "step": self.rule.step, "dilation": self.rule.recorded_dilation}

    def collect_attributes(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What a stranger needs to know about the numbers from frames of such a size."""
        height, width = self.module.covered_size(facts["height"], facts["width"])
        return {
            "channels": list(self.module.channels),
            "units": self.module.units,
            "color": self.module.color,
            "window": self.rule.length,
            "step": self.rule.step,
            "dilation": self.rule.recorded_dilation,
            "segments": self.rule.segments or 0,
            "tail": self.rule.tail,
            "covered_width": width,
            "covered_height": height,
            "method_version": self.method.version,
            "params_json": json.dumps(self.parameters, sort_keys=True),
            **self.module.collect_facts(),
        }

    def why_too_small(self, facts: dict[str, Any]) -> str:
        """Why no frame of this size has a map, or nothing."""
        width, height, smallest = facts["width"], facts["height"], self.module.smallest
        fits = min(width, height) >= smallest
        return "" if fits else f"too small ({width}x{height}, needs {smallest}x{smallest})"

    def compute_motion(self, clips: Clips, device: torch.device) -> Motion:
        """The method on a batch of windows."""
        data = self.module.extract(move_windows(clips.data, device))
        return Motion(data.float().cpu().contiguous(), clips.index, clips.time)
