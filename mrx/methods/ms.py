"""MotionSqueeze's displacement and confidence maps, extracted without training, or with weights."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrx.checks import check_choice
from mrx.errors import UsageError
from mrx.methods.motion_squeeze import FeatureMatching
from mrx.methods.spec import COLOR_STATISTICS, Method, Representation, full_precision, hash_weights
from mrx.ops.matching import TieRule
from mrx.ops.orientation import (
    CELL_LAYOUTS,
    compute_luma,
    orientation_histograms,
    standardize_features,
)
from mrx.ops.refine import CELL_PIXELS, MATCHED_PIXELS, MatchedMotion, refine_motion

if TYPE_CHECKING:
    from mrx.backbones.resnet import ResNet

MSPreset = Literal["refined", "paper"]
FeatureKind = Literal["hog", "resnet18", "resnet50"]
Refinement = Literal["subpixel", "none"]
MSShift = Literal["none", "zero", "circulant"]

_LAYER2_STRIDE = 8
"""Stride of a ResNet's layer2, after which MotionSqueeze matches."""

_FINE_PATCH = 19
"""Displacements along each axis that keep the reach of pixels when cells have 4 of them."""

_REDUCED_CHANNELS = 64
_KEPT_LAYERS = ("conv1.", "bn1.", "layer1.", "layer2.")
_REDUCTION_PREFIX = "chnl_reduction."


class MatchingRules(NamedTuple):
    """How features are matched, and what becomes of it; see `MS`."""

    patch: int
    sigma: float
    temperature: float
    stride: int
    tie: TieRule
    refinement: Refinement


MS_PRESETS: dict[str, MatchingRules] = {
    "refined": MatchingRules(15, 5.0, 100.0, 4, "smallest", "subpixel"),
    "paper": MatchingRules(15, 5.0, 100.0, 8, "first", "none"),
}


class MS(Representation):
    """Where each cell of a frame has moved to, and how sure that is (MotionSqueeze; Kwon et al.).

    Cells are matched by the cosine of their features with those of the cells around them in the
    later frame (`FeatureMatching`). Features are histograms of the orientation of edges, which need no
    weights (`orientation_histograms`, standardised over the pair), or the maps of a ResNet's layer2
    from a file of weights; a reduction of their channels is applied where the file has a trained
    one. A temporal shift mixes neighbouring frames, and the maps are not those of two frames alone:
    it is left out unless ``shift`` asks for it. A network that was trained with it, on clips of T
    frames, gives its own maps with ``stack`` T - 1 and its shift.

    Presets: ``paper`` is the released code's kernel soft-argmax, one decision for each 8 pixels;
    its confidence is the cosine, which is high in flat regions as well. ``refined`` starts from the
    same matching of cells of 8 pixels, in both directions, and goes on below the pixel
    (`mrx.ops.refine`); its confidence is low where the picture is flat, does not fit, or both
    directions disagree. What is given beside a preset goes before it.

    How far ``paper``, ``refined`` and TV-L1's default are off, in pixels, in the mean
    (tests/benchmarks/matching.py): over 52 pairs of textured photographs that are shifted, turned
    and zoomed as a whole, on which the refinement was chosen, 4.05, 0.08 and 0.13; over 32 of other
    pictures 13.3, 0.8 and 5.4; over 8 of these with one thing before another 13.4, 2.8 and 2.2,
    most of it in cells at its edge and where it hides what was seen; over the Middlebury pairs
    ``refined`` 0.32, TV-L1 0.21. Where a pattern repeats, or noise is all there is to see,
    refinement can be off by tens of pixels; its confidence is low there, mostly.

    Windows are frames 4 apart unless the user says otherwise, down to neighbours. Given a number of
    segments alone, frames are matched across them, each with that of the next.

    Args:
        preset: the rules to begin with
        features: what is matched; a ResNet needs weights, or a seed
        patch: displacements that are tried along each axis, odd; 15 is 7 cells each way. None is
            the preset's, but 19 for cells of 4 pixels
        sigma: of the Gaussian around the best match, in cells
        temperature: factor of the cosines in the softmax
        stride: pixels from one value of the maps to the next, 4 or 8; without refinement it is that
            of the cells, which for a ResNet is 8
        tie: which of equally good matches counts, the ``first`` as released, or the ``smallest``
        refinement: ``subpixel``, or ``none``
        seed: of random weights for a ResNet; None refuses to go without trained ones
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
    backbone: "ResNet | None"
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
        given = {name: value for name, value in locals().items() if name in MatchingRules._fields}
        super().__init__()
        check_choice("preset", preset, MSPreset)
        check_choice("features", features, FeatureKind)
        chosen = {name: value for name, value in given.items() if value is not None}
        self.rules = MS_PRESETS[preset]._replace(**chosen)
        if patch is None and not self._uses_refinement() and self.rules.stride == CELL_PIXELS:
            self.rules = self.rules._replace(patch=_FINE_PATCH)
        _check_matching_rules(self.rules, features, seed)
        _check_ms_window(features, stack, shift)
        self.preset, self.features, self.seed, self.shift = preset, features, seed, shift
        self.cell = MATCHED_PIXELS if self._uses_refinement() else self.rules.stride
        self.matching = FeatureMatching(*self.rules[:3], tie=self.rules.tie)
        self.length = stack + 1
        self.backbone = None
        if features != "hog":
            self.backbone = _build_random_backbone(
                features, seed or 0, frames=self.length, shift=shift
            )
        self.chnl_reduction = None
        self._loaded = False
        self.register_load_state_dict_post_hook(_note_loading)  # type: ignore[no-untyped-call]
        self.step = self.dilation = 4
        self.channels = _name_map_channels(stack)
        self.bound = float((self.matching.reach + self._uses_refinement()) * self.cell)
        self.smallest = MATCHED_PIXELS

    def prepare(self, frames: Tensor) -> Tensor:
        """Bytes to 0..1."""
        return frames.float() / 255

    def forward(self, clip: Tensor) -> Tensor:
        """The maps of windows, one pair at a time, so that none depends on its batch."""
        self.check_clip(clip)
        self._refuse_untrained()
        with full_precision(clip) as frames:
            if len(frames) == 0:
                return frames.new_zeros(0, *self.output_shape(*frames.shape[3:]))
            return torch.cat([self._map_window(window) for window in frames])

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """A value for each whole cell."""
        return len(self.channels), height // self.rules.stride, width // self.rules.stride

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """What whole cells cover; up to a stride less one at the bottom and the right is left."""
        stride = self.rules.stride
        return height // stride * stride, width // stride * stride

    def translate_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights up to layer2, by the names of torchvision's, TSM's and MotionSqueeze's code.

        A channel reduction is made here if there is one among them, and taken away if not.
        """
        if self.backbone is None:
            return state
        named = {key.replace(".net.", ".").removeprefix("backbone."): state[key] for key in state}
        reduction = {
            key: value for key, value in named.items() if key.startswith(_REDUCTION_PREFIX)
        }
        reduction_layers = _build_reduction(self.features) if reduction else None
        if reduction_layers is not None:
            _check_reduction_fit(reduction, reduction_layers.state_dict())
        self.chnl_reduction = reduction_layers
        kept = {
            f"backbone.{key}": value for key, value in named.items() if key.startswith(_KEPT_LAYERS)
        }
        return kept | reduction

    def collect_facts(self) -> dict[str, Any]:
        """Every rule as it is, and which weights they were."""
        self._refuse_untrained()
        found = {"preset": self.preset, "features": self.features, **self.rules._asdict()}
        found |= {"cell": self.cell}
        if self.backbone is not None:
            found |= {
                "trained": self._loaded,
                "shift": self.shift,
                "reduction": self.chnl_reduction is not None,
                "weights_sha256": hash_weights(self),
            }
        return found

    def _map_window(self, frames: Tensor) -> Tensor:
        """The maps ``(1, 3 stack, h, w)`` of frames ``(stack + 1, 3, H, W)``."""
        layers = None if self.backbone is None else self._compute_layer2(self.backbone, frames)
        pairs = [slice(i, i + 2) for i in range(len(frames) - 1)]
        maps = [
            self._map_pair(
                frames[p], self._compute_histograms(frames[p]) if layers is None else layers[p]
            )
            for p in pairs
        ]
        return torch.cat(maps, dim=1)

    def _map_pair(self, pair: Tensor, features: Tensor) -> Tensor:
        """The maps ``(1, 3, h, w)`` of two frames ``(2, 3, H, W)`` with their features."""
        if not self._uses_refinement():
            found = self.matching(features[:1], features[1:])
            return torch.cat([found.displacement * self.cell, found.confidence], dim=1)
        found = self.matching(features, features.flip(0))
        forward_match, backward_match = (
            MatchedMotion(displacement * self.cell, confidence)
            for displacement, confidence in zip(
                found.displacement.chunk(2), found.confidence.chunk(2), strict=True
            )
        )
        gray = 255 * compute_luma(pair)
        maps = torch.cat(refine_motion(gray[:1], gray[1:], forward_match, backward_match), dim=1)
        return F.avg_pool2d(maps, self.rules.stride // CELL_PIXELS)

    def _compute_histograms(self, pair: Tensor) -> Tensor:
        """Features without weights of two frames, ``(2, C, H // cell, W // cell)``."""
        return standardize_features(
            orientation_histograms(compute_luma(pair), CELL_LAYOUTS[self.cell])
        )

    def _compute_layer2(self, backbone: "ResNet", frames: Tensor) -> Tensor:
        """A network's features of the frames of a window, ``(T, C, H // 8, W // 8)``."""
        mean, deviation = (frames.new_tensor(v).view(3, 1, 1) for v in COLOR_STATISTICS["imagenet"])
        images = ((frames - mean) / deviation).to(backbone.conv1.weight.dtype)
        maps = backbone.compute_features(images, until="layer2")
        if self.chnl_reduction is not None:
            maps = self.chnl_reduction(maps)
        height, width = (size // _LAYER2_STRIDE for size in frames.shape[2:])
        return maps[..., :height, :width].to(frames.dtype)

    def _uses_refinement(self) -> bool:
        return self.rules.refinement == "subpixel"

    def _refuse_untrained(self) -> None:
        if self.backbone is not None and self.seed is None and not self._loaded:
            raise UsageError(
                f"ms: features={self.features} has no weights: give a file of them (torchvision's, "
                "TSM's or MotionSqueeze's), a seed for random ones, or take features=hog"
            )


def _note_loading(module: nn.Module, _: Any) -> None:
    module._loaded = True  # type: ignore[assignment]


def _check_reduction_fit(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse a reduction of other shapes before anything is changed."""
    for key, value in found.items():
        own = wanted.get(key.removeprefix(_REDUCTION_PREFIX))
        if own is None or own.shape != value.shape:
            needs = "not known" if own is None else f"to be {tuple(own.shape)}"
            raise ValueError(f"{key} is {tuple(value.shape)}, needs {needs}")


def _check_matching_rules(rules: MatchingRules, features: FeatureKind, seed: int | None) -> None:
    check_choice("refinement", rules.refinement, Refinement)
    if rules.stride not in CELL_LAYOUTS:
        raise ValueError(
            f"stride={rules.stride}: choose from {', '.join(map(str, sorted(CELL_LAYOUTS)))}"
        )
    if features != "hog" and rules.refinement == "none" and rules.stride != _LAYER2_STRIDE:
        raise ValueError(f"stride={rules.stride}: {features} has cells of {_LAYER2_STRIDE} pixels")
    if features == "hog" and seed is not None:
        raise ValueError(f"seed={seed}: features=hog has no weights to draw")


def _check_ms_window(features: FeatureKind, stack: int, shift: MSShift) -> None:
    check_choice("shift", shift, MSShift)
    if stack < 1:
        raise ValueError(f"stack={stack}: a window has at least one pair")
    if features == "hog" and shift != "none":
        raise ValueError(f"shift={shift}: features=hog has no network whose channels it could move")


def _name_map_channels(stack: int) -> tuple[str, ...]:
    """The names of a window's maps: those of flow, and of each pair its confidence."""
    if stack == 1:
        return "dx", "dy", "confidence"
    return tuple(f"{name}{i}" for i in range(1, stack + 1) for name in ("x", "y", "confidence"))


def _build_random_backbone(
    features: FeatureKind, seed: int, *, frames: int, shift: MSShift
) -> "ResNet":
    """A ResNet up to layer2 for windows of so many frames, with the random weights of a seed."""
    from mrx.backbones.resnet import ResNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNet(
            18 if features == "resnet18" else 50,
            segments=frames,
            shift=None if shift == "none" else shift,
        )
    for name in ("layer3", "layer4", "fc"):
        delattr(net, name)
    return net


def _build_reduction(features: FeatureKind) -> nn.Sequential:
    """MotionSqueeze's reduction of channels, before they are matched."""
    channels = 128 if features == "resnet18" else 512
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(channels, _REDUCED_CHANNELS, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(_REDUCED_CHANNELS), nn.ReLU()).eval()


METHOD = Method(
    name="ms",
    module=MS,
    summary="displacement of cells by matching features, and its confidence",
    paper="MotionSqueeze: Neural Motion Feature Learning for Video Understanding "
    "(Kwon et al.; ECCV 2020)",
    cost="heavy",
)
