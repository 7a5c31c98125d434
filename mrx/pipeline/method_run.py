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
from mrx.pipeline.transfer import move
from mrx.records import Clips, Motion
from mrx.shards.compression import filters
from mrx.shards.encoding import Encoding
from mrx.windows.plan import Rule


@dataclass(frozen=True)
class Lane:
    """A method of the run: its module, its windows, and how its maps are stored."""

    method: Method
    module: Representation
    parameters: dict[str, Any]
    rule: Rule
    encoding: Encoding
    filters: dict[str, Any]

    @classmethod
    def build(cls, job: Job, name: str, device: torch.device) -> "Lane":
        """Make a method ready, with the parameters, weights and windows that the job asks for."""
        method = methods.find(name)
        given = job.parameters.get(name, {})
        if job.stack is not None and "stack" in method.parameters():
            if given.get("stack", str(job.stack)) != str(job.stack):
                raise UsageError(f"{name}: stack={job.stack} and stack={given['stack']}: say one")
            given = {**given, "stack": str(job.stack)}
        parameters = method.complete(given)
        module = method.build(parameters)
        if name in job.weights:
            parameters = {**parameters, "weights": load_weights(module, job.weights[name])}
        asked = job.windowing
        rule = Rule(
            length=module.length,
            step=module.step if asked.step is None else asked.step,
            dilation=module.dilation if asked.dilation is None else asked.dilation,
            segments=asked.segments,
            across=asked.segments is not None and asked.dilation is None and module.across_segments,
            tail=asked.tail,
        )
        if job.storage.dtype == "uint8" and any("confidence" in c for c in module.channels):
            raise UsageError(
                f"dtype uint8 has no steps for {name}'s confidence: take float16 or q16"
            )
        encoding = Encoding.choose(job.storage, units=module.units, bound=module.bound)
        cost = method.cost if device.type == "cpu" else "light"  # none is heavy beside a device
        stored = filters(job.storage.compression, cost=cost)
        return cls(method, module.to(device), parameters, rule, encoding, stored)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, beside what all methods share."""
        return {**self.parameters, "step": self.rule.step, "dilation": self.rule.gap}

    def attributes(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What a stranger needs to know about the numbers from frames of such a size."""
        height, width = self.module.covered(facts["height"], facts["width"])
        return {
            "channels": list(self.module.channels),
            "units": self.module.units,
            "color": self.module.color,
            "window": self.rule.length,
            "step": self.rule.step,
            "dilation": self.rule.gap,
            "segments": self.rule.segments or 0,
            "tail": self.rule.tail,
            "covered_width": width,
            "covered_height": height,
            "method_version": self.method.version,
            "params_json": json.dumps(self.parameters, sort_keys=True),
            **self.module.facts(),
        }

    def too_small(self, facts: dict[str, Any]) -> str:
        """Why no frame of this size has a map, or nothing."""
        width, height, least = facts["width"], facts["height"], self.module.smallest
        fits = min(width, height) >= least
        return "" if fits else f"too small ({width}x{height}, needs {least}x{least})"

    def compute(self, clips: Clips, device: torch.device) -> Motion:
        """The method on a batch of windows."""
        data = self.module.extract(move(clips.data, device))
        return Motion(data.float().cpu().contiguous(), clips.index, clips.time)
