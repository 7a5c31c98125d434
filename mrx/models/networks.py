"""Networks that a motion module makes: MSNet, its MobileNet-V2, and the CP network beside it."""

import torch
from torch import Tensor, nn

from mrx.methods.motion_squeeze import Match, MotionSqueeze, Transformation
from mrx.models.mobilenet import SQUEEZED_CHANNELS, MobileNetV2, Stem
from mrx.models.proposals import CorrespondenceProposal
from mrx.models.resnet import Depth, ResNet
from mrx.models.shift import Shift
from mrx.ops.matching import pair_up, repeat_last


class MSNet(ResNet):
    """TSM-ResNet with MotionSqueeze after layer2 (res3) (Kwon et al., 2020).

    `mrx.methods.motion_squeeze.MotionSqueeze` with its layers at the top of the state dict, as
    ``chnl_reduction.*`` and ``flow_refinement.*``, where the released code has them; the rest is
    `ResNet`. The head is drawn as there, by Xavier's rule.

    Args:
        depth: 18 or 50
        classes: how many there are
        segments: frames of a clip, at least 2
        shift: how frames exchange channels in each block, or None
        transformation: of displacements to features, a form of table 1 of the supplement

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``,
          normalised as the weights were trained with
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        depth: Depth = 50,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: Shift | None = "zero",
        transformation: Transformation = "separable",
    ) -> None:
        super().__init__(depth, classes, segments=segments, shift=shift)
        squeeze = MotionSqueeze(_width(depth), segments, transformation=transformation)
        self.chnl_reduction = squeeze.chnl_reduction
        self.matching = squeeze.matching
        self.flow_refinement = squeeze.flow_refinement
        nn.init.xavier_uniform_(self.fc.weight)

    def motion(self, maps: Tensor) -> Tensor:
        """Maps of layer2 with what their motion tells, as `MotionSqueeze` makes them."""
        found = self.match(maps)
        told = torch.cat([found.displacement / self.matching.reach, found.confidence], dim=1)
        return maps + self.flow_refinement(repeat_last(told, self.segments).to(maps.dtype))

    def match(self, maps: Tensor) -> Match:
        """What the matching finds in maps of layer2, for each of the B (T - 1) pairs of frames."""
        return self.matching(*pair_up(self.chnl_reduction(maps), self.segments))


class MSMobileNetV2(MobileNetV2):
    """MobileNet-V2 with MotionSqueeze after the blocks of 32 channels, without reduction.

    Where the supplement of MotionSqueeze puts it; there is no released code. Its layers are named
    ``motion_squeeze.*``, the rest as in torchvision.

    Args:
        classes: how many there are
        segments: frames of a clip, at least 2
        shift: how frames exchange channels, or None
        stem: size of the first kernel, 3 or 7; see `MobileNetV2`

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: Shift | None = "zero",
        stem: Stem = 3,
    ) -> None:
        super().__init__(classes, segments=segments, shift=shift, stem=stem)
        self.motion_squeeze = MotionSqueeze(SQUEEZED_CHANNELS, segments, reduced=None)

    def motion(self, maps: Tensor) -> Tensor:
        """Maps with what their motion tells."""
        return self.motion_squeeze(maps)


class CPNet(ResNet):
    """TSM-ResNet with one CP module after layer2, as MotionSqueeze's supplement compares it.

    As in CP's own code the module takes the sum of layer2's last block before its ReLU, which
    follows after what it adds. So `features` until layer2 are without that ReLU here.

    Args:
        depth: 18 or 50
        classes: how many there are
        segments: frames of a clip, at least 2
        shift: how frames exchange channels in each block, or None

    Shape:
        - clip: ``(B, segments, 3, H, W)``, or frame after frame ``(B * segments, 3, H, W)``
        - output: ``(B, classes)``, logits
    """

    def __init__(
        self,
        depth: Depth = 18,
        classes: int = 1000,
        *,
        segments: int = 8,
        shift: Shift | None = "zero",
    ) -> None:
        super().__init__(depth, classes, segments=segments, shift=shift)
        self.proposals = CorrespondenceProposal(_width(depth), segments)
        *_, last = self.get_submodule("layer2").children()
        last.last_relu = nn.Identity()

    def motion(self, maps: Tensor) -> Tensor:
        """Maps with what their correspondences tell, and the ReLU that ends a residual block."""
        return self.relu(self.proposals(maps))


def _width(depth: Depth) -> int:
    """Channels of layer2."""
    return 128 if depth == 18 else 512
