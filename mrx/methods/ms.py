"""MotionSqueeze's displacement and confidence maps, extracted without training or with weights."""

from typing import Any

import torch
from torch import Tensor, nn

from mrx.backbones.resnet import ResNet
from mrx.checks import check_choice
from mrx.errors import UsageError
from mrx.methods.motion_squeeze import FeatureMatching
from mrx.methods.ms_features import (
    FeatureKind,
    MSShift,
    build_random_backbone,
    compute_layer2,
    compute_pair_histograms,
    translate_ms_state,
)
from mrx.methods.ms_matching import (
    MSPreset,
    Refinement,
    check_matching_rules,
    check_ms_window,
    choose_matching_rules,
    describe_coarse_cells,
    match_pair,
    name_map_channels,
)
from mrx.methods.spec import (
    Method,
    Representation,
    full_precision,
    hash_weights,
    keep_traced_size,
)
from mrx.ops.matching import TieRule
from mrx.ops.refine import MATCHED_PIXELS


class MS(Representation):
    """Displacement of each cell of a frame, with a confidence (MotionSqueeze; Kwon et al.).

    Cells are matched by the cosine of their features with those of nearby cells in the later frame
    (`FeatureMatching`). Features are histograms of edge orientations, which need no weights
    (`orientation_histograms`, standardized over the pair), or the maps of a ResNet's layer2 from a
    weights file; a channel reduction is applied if the file has a trained one. A temporal shift
    mixes neighboring frames, so that maps depend on more than their two frames: it is off unless
    ``shift`` turns it on. A network trained with it, on clips of T frames, gives its own maps with
    ``stack`` T - 1 and its shift.

    A window has frames 4 apart by default; a dilation of 1 matches adjacent ones. Given only a
    number of segments, it matches each segment's frame with the next segment's.

    Args:
        preset: rules to start from, see `MS_PRESETS`; parameters that are given override it
        features: features to match; a ResNet needs weights or a seed
        patch, sigma, temperature, stride, tie, refinement: see `MatchingRules`; None is the
            preset's, but for ``patch`` 19 with unrefined cells of 4 pixels
        seed: seed of random weights for a ResNet; None requires trained ones
        stack: pairs in a window, each frame with the next
        shift: how a ResNet's blocks exchange channels between the frames of a window

    Shape:
        - clip: ``(B, stack + 1, 3, H, W)``, in 0..1
        - output: ``(B, 3 stack, H // stride, W // stride)``, cells from the top left; of each pair
          the displacement x (right) and y (down) in pixels from its first frame to its second, and
          the confidence in 0..1
    """

    units = "px"
    across_segments = True
    backbone: ResNet | None
    chnl_reduction: nn.Sequential | None

    def __init__(
        self,
        preset: MSPreset = "refined",
        features: FeatureKind = "hog",
        patch: int | None = None,
        sigma: float | None = None,
        temperature: float | None = None,
        stride: int | None = None,
        tie: TieRule | None = None,
        refinement: Refinement | None = None,
        seed: int | None = None,
        stack: int = 1,
        shift: MSShift = "none",
    ) -> None:
        super().__init__()
        check_choice("preset", preset, MSPreset)
        check_choice("features", features, FeatureKind)
        given = {
            "patch": patch,
            "sigma": sigma,
            "temperature": temperature,
            "stride": stride,
            "tie": tie,
            "refinement": refinement,
        }
        self.rules = choose_matching_rules(preset, given)
        check_matching_rules(self.rules, features, seed)
        check_ms_window(features, stack, shift)
        self.preset, self.features, self.seed, self.shift = preset, features, seed, shift
        self.cell = self.rules.cell_pixels
        self.matching = FeatureMatching(*self.rules[:3], tie=self.rules.tie)
        self.length = stack + 1
        self.backbone = None
        if features != "hog":
            self.backbone = build_random_backbone(
                features, seed or 0, num_frames=self.length, shift=shift
            )
        self.chnl_reduction = None
        self._has_loaded_weights = False
        self.register_load_state_dict_post_hook(_note_loading)  # type: ignore[no-untyped-call]
        self.step = self.dilation = 4
        self.channels = name_map_channels(stack)
        self.bound = float((self.matching.reach + self.rules.uses_refinement) * self.cell)
        self.smallest = MATCHED_PIXELS

    def prepare(self, frames: Tensor) -> Tensor:
        """Scale bytes to 0..1."""
        return frames.float() / 255

    def forward(self, clip: Tensor) -> Tensor:
        """Compute the maps of each window."""
        self.check_clip(clip)
        self._require_weights()
        with full_precision(clip) as frames:
            if len(frames) == 0:
                return frames.new_zeros(0, *self.output_shape(*frames.shape[3:]))
            # One window at a time: the bits of a map must not depend on its batch.
            return torch.cat([self._map_window(window) for window in keep_traced_size(frames)])

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C', H', W'): one value for each whole cell."""
        return len(self.channels), height // self.rules.stride, width // self.rules.stride

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that whole cells cover; the rest is at the bottom and the right."""
        stride = self.rules.stride
        return height // stride * stride, width // stride * stride

    def translate_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights up to layer2, and add or remove the channel reduction to fit the file."""
        if self.backbone is None:
            return state
        weights, self.chnl_reduction = translate_ms_state(state, self.features)
        return weights

    def describe_dilation_problem(self, dilation: int) -> str:
        """Return why whole cells are too coarse for frames this far apart, or an empty string."""
        return describe_coarse_cells(self.rules, dilation)

    def collect_facts(self) -> dict[str, Any]:
        """Return the resolved rules, and the state and hash of the weights."""
        self._require_weights()
        facts = {"preset": self.preset, "features": self.features, **self.rules._asdict()}
        facts["cell"] = self.cell
        if self.backbone is not None:
            facts |= {
                "trained": self._has_loaded_weights,
                "shift": self.shift,
                "reduction": self.chnl_reduction is not None,
                "weights_sha256": hash_weights(self),
            }
        return facts

    def _map_window(self, frames: Tensor) -> Tensor:
        """Compute the maps ``(1, 3 stack, h, w)`` of frames ``(stack + 1, 3, H, W)``."""
        layers = None
        if self.backbone is not None:
            layers = compute_layer2(self.backbone, self.chnl_reduction, frames)
        maps = []
        for i in range(len(frames) - 1):
            pair = frames[i : i + 2]
            if layers is None:
                features = compute_pair_histograms(pair, self.cell)
            else:
                features = layers[i : i + 2]
            maps.append(match_pair(pair, features, self.matching, self.rules))
        return torch.cat(maps, dim=1)

    def _require_weights(self) -> None:
        if self.backbone is not None and self.seed is None and not self._has_loaded_weights:
            raise UsageError(
                f"ms: features={self.features} has no weights: give a file of torchvision's, TSM's "
                "or MotionSqueeze's, or a seed for random ones, or use features=hog"
            )


def _note_loading(module: nn.Module, _: Any) -> None:
    module._has_loaded_weights = True  # type: ignore[assignment]


METHOD = Method(
    name="ms",
    module=MS,
    summary="displacement of cells by matching features, and its confidence",
    paper="MotionSqueeze: Neural Motion Feature Learning for Video Understanding "
    "(Kwon et al.; ECCV 2020)",
    cost="heavy",
)
