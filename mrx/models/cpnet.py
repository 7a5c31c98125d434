"""CPNet: TSM-ResNet with correspondence proposals, a baseline of MotionSqueeze's paper."""

from torch import Tensor, nn

from mrx.backbones.resnet import ResNet, ResNetDepth, layer2_channels
from mrx.backbones.shift import ShiftMode
from mrx.models.proposals import CorrespondenceProposal


class CPNet(ResNet):
    """TSM-ResNet with one CP module after layer2, as compared in MotionSqueeze's supplement.

    As in CP's own code, the last ReLU of layer2 follows the CP module instead of preceding it, so
    `compute_features` until layer2 returns maps without that ReLU.

    Args:
        depth: 18 or 50
        classes: number of classes
        segments: frames of a clip, at least 2
        shift: how frames exchange channels in each block, or None

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        depth: ResNetDepth = 18,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: ShiftMode | None = "zero",
    ) -> None:
        super().__init__(depth, classes, segments=segments, shift=shift)
        self.proposals = CorrespondenceProposal(layer2_channels(depth), segments)
        *_, last = self.get_submodule("layer2").children()
        last.last_relu = nn.Identity()

    def add_motion(self, maps: Tensor) -> Tensor:
        """Add the features of correspondences, then apply the last ReLU of layer2."""
        return self.relu(self.proposals(maps))
