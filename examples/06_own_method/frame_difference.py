"""A method of one's own: the change of gray values from one frame to the next."""

from torch import Tensor

from mrx.methods.spec import Method, Representation


class FrameDifference(Representation):
    """Later frame minus earlier frame.

    Args:
        absolute: forget the sign

    Shape:
        - clip: ``(B, 2, 1, H, W)``, float in 0..1
        - output: ``(B, 1, H, W)``, float in -1..1
    """

    color = "gray"

    def __init__(self, absolute: bool = False) -> None:
        super().__init__()
        self.absolute = absolute
        self.length = 2
        self.step = 1
        self.channels = ("difference",)
        self.bound = 1.0

    def prepare(self, frames: Tensor) -> Tensor:
        """Bytes to 0..1."""
        return frames.float() / 255

    def forward(self, clip: Tensor) -> Tensor:
        """Subtract."""
        self.check_clip(clip)
        difference = clip[:, 1] - clip[:, 0]
        return difference.abs() if self.absolute else difference


METHOD = Method(
    name="frame-difference",
    module=FrameDifference,
    summary="change of gray values from frame to frame",
    paper="none",
    cost="light",
)
