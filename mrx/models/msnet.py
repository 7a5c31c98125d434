"""MSNet: TSM-ResNet with MotionSqueeze."""

import torch
from torch import Tensor, nn

from mrx.backbones.resnet import ResNet, ResNetDepth, layer2_channels
from mrx.backbones.shift import ShiftMode
from mrx.methods.motion_squeeze import MatchMaps, MotionSqueeze, Transformation
from mrx.ops.matching import pair_up, repeat_last


class MSNet(ResNet):
    """TSM-ResNet with MotionSqueeze after layer2 (res3) (Kwon et al., 2020).

    `mrx.methods.motion_squeeze.MotionSqueeze` with its layers at the top of the state dict, as
    ``chnl_reduction.*`` and ``flow_refinement.*``, where the released code has them; the rest is
    `ResNet`. The head starts as in the released code, by Xavier's rule.

    Args:
        depth: 18 or 50
        classes: number of classes
        segments: frames of a clip, at least 2
        shift: how frames exchange channels in each block, or None
        transformation: of displacements to features, see `MotionSqueeze`

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``,
          normalized as for the training of the weights
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        depth: ResNetDepth = 50,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: ShiftMode | None = "zero",
        transformation: Transformation = "separable",
    ) -> None:
        super().__init__(depth, classes, segments=segments, shift=shift)
        squeeze = MotionSqueeze(layer2_channels(depth), segments, transformation=transformation)
        self.chnl_reduction = squeeze.chnl_reduction
        self.matching = squeeze.matching
        self.flow_refinement = squeeze.flow_refinement
        nn.init.xavier_uniform_(self.fc.weight)

    def add_motion(self, maps: Tensor) -> Tensor:
        """Add motion features to the maps of layer2, as `MotionSqueeze` does."""
        matches = self.match_frames(maps)
        displacement = matches.displacement / self.matching.reach
        motion_maps = torch.cat([displacement, matches.confidence], dim=1)
        return maps + self.flow_refinement(repeat_last(motion_maps, self.segments).to(maps.dtype))

    def match_frames(self, maps: Tensor) -> MatchMaps:
        """Match the maps of layer2 of each of the B (T - 1) pairs of frames."""
        return self.matching(*pair_up(self.chnl_reduction(maps), self.segments))
