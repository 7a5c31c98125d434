"""MobileNet-V2 with MotionSqueeze."""

from torch import Tensor

from mrx.backbones.mobilenet import SQUEEZED_CHANNELS, MobileNetV2, StemSize
from mrx.backbones.shift import ShiftMode
from mrx.methods.motion_squeeze import MotionSqueeze


class MSMobileNetV2(MobileNetV2):
    """MobileNet-V2 with MotionSqueeze after the blocks of 32 channels, without reduction.

    The position is that of MotionSqueeze's supplement; no code was released. Its layers are named
    ``motion_squeeze.*``, the rest as in torchvision.

    Args:
        classes: number of classes
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
        shift: ShiftMode | None = "zero",
        stem: StemSize = 3,
    ) -> None:
        super().__init__(classes, segments=segments, shift=shift, stem=stem)
        self.motion_squeeze = MotionSqueeze(SQUEEZED_CHANNELS, segments, reduced=None)

    def add_motion(self, maps: Tensor) -> Tensor:
        """Add motion features to the maps."""
        return self.motion_squeeze(maps)
