"""A method of a run: its module on a device, its windows and its storage."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mrx import methods
from mrx.errors import UsageError
from mrx.job import Job, Windowing
from mrx.methods.spec import Method, Representation
from mrx.methods.weights import load_weights
from mrx.shards.compression import dataset_options, describe_compressor
from mrx.shards.encoding import Encoding
from mrx.windows.plan import WindowRule


@dataclass(frozen=True)
class MethodRun:
    """A method of a run, ready to compute.

    Attributes:
        method: its entry in the table of methods
        module: computes the maps, on the run's device
        parameters: every parameter by name, defaults included
        rule: cuts frames into its windows
        encoding: turns its maps into the numbers that are stored
        dataset_options: compression arguments for its datasets
        given_bound: the bound that the job gives for integers; None is the method's own
    """

    method: Method
    module: Representation
    parameters: dict[str, Any]
    rule: WindowRule
    encoding: Encoding
    dataset_options: dict[str, Any]
    given_bound: float | None = None

    @classmethod
    def from_job(cls, job: Job, name: str, device: torch.device) -> "MethodRun":
        """Set a method up with the parameters, weights and windows of a job."""
        method = methods.find_method(name)
        given = job.parameters.get(name, {})
        if job.stack is not None and "stack" in method.list_parameters():
            if given.get("stack", str(job.stack)) != str(job.stack):
                raise UsageError(
                    f"{name}: conflicting stack values {job.stack} and {given['stack']}: give one"
                )
            given = {**given, "stack": str(job.stack)}
        parameters = method.complete_parameters(given)
        module = method.build_module(parameters)
        if name in job.weights:
            parameters = {**parameters, "weights": load_weights(module, job.weights[name])}
        rule = _build_window_rule(job.windowing, module)
        if job.storage.dtype == "uint8" and any("confidence" in c for c in module.channels):
            raise UsageError(f"uint8 cannot store {name}'s confidence: use float16 or q16")
        encoding = Encoding.from_storage(
            job.storage, units=module.units, bound=module.bound, channels=module.channels
        )
        # On a GPU no method is slow enough to make compression cheap beside it.
        cost = method.cost if device.type == "cpu" else "light"
        storage_filters = dataset_options(
            job.storage.compression, cost=cost, tolerance=job.storage.tolerance
        )
        return cls(
            method,
            module.to(device),
            parameters,
            rule,
            encoding,
            storage_filters,
            job.storage.bound,
        )

    def collect_settings(self) -> dict[str, Any]:
        """Return the settings of this method that decide the numbers."""
        storage: dict[str, Any] = {"dtype": self.encoding.dtype_name}
        if self.encoding.bound is not None:
            # As given: the method's own bound follows from its parameters and weights.
            storage["bound"] = self.given_bound
        if self.encoding.tolerance is not None:
            storage["tolerance"] = self.encoding.tolerance
        windows = {"step": self.rule.step, "dilation": self.rule.recorded_dilation}
        return {**self.parameters, **windows, **storage}

    def collect_attributes(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes that describe the maps of frames with these facts."""
        height, width = self.module.covered_size(facts["height"], facts["width"])
        tolerance = self.encoding.tolerance
        return {
            "dtype": self.encoding.dtype_name,
            **({} if tolerance is None else {"tolerance": tolerance}),
            **describe_compressor(tolerance),
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

    def describe_window_problem(self) -> str:
        """Return why these windows give poor maps, or an empty string."""
        # Across segments the recorded dilation is 0: the gaps are wide.
        problem = self.module.describe_dilation_problem(self.rule.recorded_dilation)
        return problem and f"{self.method.name}: {problem}"

    def why_too_small(self, facts: dict[str, Any]) -> str:
        """Return the reason that frames of this size have no maps, or an empty string."""
        width, height, smallest = facts["width"], facts["height"], self.module.smallest
        fits = min(width, height) >= smallest
        return "" if fits else f"too small ({width}x{height}, needs {smallest}x{smallest})"


def _build_window_rule(windowing: Windowing, module: Representation) -> WindowRule:
    return WindowRule(
        length=module.length,
        step=module.step if windowing.step is None else windowing.step,
        dilation=module.dilation if windowing.dilation is None else windowing.dilation,
        segments=windowing.segments,
        across_segments=windowing.segments is not None
        and windowing.dilation is None
        and module.across_segments,
        tail=windowing.tail,
    )


def check_stack_option(stack: int | None, method_runs: Sequence[MethodRun]) -> None:
    """Refuse a `stack` that none of the methods takes.

    Raises:
        UsageError: `stack` is given, and no method has a parameter of that name
    """
    if stack is None or any("stack" in run.parameters for run in method_runs):
        return
    names = ", ".join(run.method.name for run in method_runs)
    raise UsageError(f"stack={stack}: none of these methods takes a stack: {names}")
