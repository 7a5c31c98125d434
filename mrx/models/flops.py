"""Operation counts of networks by the convention of MotionSqueeze's paper, and its figures."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mrx.backbones.resnet import ResNet
from mrx.methods.motion_squeeze import FeatureMatching, MatchMaps
from mrx.models.cpnet import CPNet
from mrx.models.msnet import MSNet
from mrx.models.prime_motion import PrimeMotionBlock
from mrx.models.proposals import CorrespondenceProposal

CONVENTION = "MotionSqueeze"
"""The counter of its code, for one clip. An output of a convolution costs ``C_in k² / groups``, a
multiply-add being one, and 1 more with a bias; an output of a linear layer ``2 C_in - 1``, of
correlation ``2 C - 1``; an input of batch norm 4; an output of average pooling its area + 1. ReLU,
maxima, sums of branches, shifts, norms and the Gaussian are free."""


class OperationCount(NamedTuple):
    """Cost of one forward pass.

    Attributes:
        operations: by `CONVENTION`
        multiply_adds: of convolutions and linear layers only
        parameters: number of trained values, each counted once
    """

    operations: int
    multiply_adds: int
    parameters: int


def count_operations(net: nn.Module, shape: tuple[int, ...]) -> OperationCount:
    """Count the operations of a network in evaluation, without computing or changing it.

    Args:
        net: any network whose layers with weights are of the kinds in the convention
        shape: of its input, such as ``(1, 8, 3, 224, 224)`` for a clip

    Raises:
        ValueError: a layer with weights has no rule, or another module uses its weights without
            calling it, as PA does
    """
    twin = copy.deepcopy(net).to("meta").eval()
    operation_counts, product_counts = [], []
    uncalled: dict[nn.Module, str] = {}

    def note_call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        operations, multiply_adds = _COUNT_RULES[type(module)](module, inputs[0], output)
        operation_counts.append(operations)
        product_counts.append(multiply_adds)
        uncalled.pop(module, None)

    for name, module in twin.named_modules():
        if type(module) in _COUNT_RULES:
            module.register_forward_hook(note_call)
            uncalled[module] = name
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(f"{name} is a {type(module).__name__}: no rule counts its operations")
    # Fake tensors instead of the meta device, which does not support autocast.
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        twin.to_empty(device="cpu")
        twin(torch.empty(shape))
    if uncalled:
        raise ValueError(f"{', '.join(uncalled.values())}: never called, so not counted")
    return OperationCount(
        sum(operation_counts), sum(product_counts), sum(p.numel() for p in net.parameters())
    )


class FlopsRow(NamedTuple):
    """A network of the supplement's tables 1 and 2.

    Attributes:
        model: its name in the tables, with the form of its transformation
        printed: GFLOPs in the supplement
        counted: GFLOPs by `CONVENTION`
        parameters: in millions
        reproduced: true if both GFLOPs agree to the printed digits
    """

    model: str
    printed: float
    counted: float
    parameters: float
    reproduced: bool


def compare_with_paper() -> list[FlopsRow]:
    """Compare counts with MotionSqueeze's supplement: 8 frames of 224x224, 174 classes.

    Two rows are not reproduced. *MS on ResNet-18*: the released code gives 14.88, as here; without
    channel reduction it would be 14.99, and with backward matching as well 15.04, but nothing
    indicates either. *CP on ResNet-18*: the widths and k of CP's own code, used here, give 20.22;
    those of the supplement's authors are unknown, and guesses give 20.4 no more often than chance.
    The head here is a linear layer; the released one is a convolution, with half the count, which
    is 0.003 G for ResNet-50.
    """
    with torch.device("meta"):
        networks: dict[str, tuple[float, nn.Module]] = {
            "TSM-R50": (33.1, ResNet(50, 174, shift="zero")),
            "MSNet-R50, 1x(1,1)": (33.4, MSNet(50, 174, transformation="one-1x1")),
            "MSNet-R50, 1x(3,3)": (33.5, MSNet(50, 174, transformation="one-3x3")),
            "MSNet-R50, 4x(3,3)": (35.8, MSNet(50, 174, transformation="four-3x3")),
            "MSNet-R50, ours": (33.7, MSNet(50, 174)),
            "TSM-R18": (14.6, ResNet(18, 174, shift="zero")),
            "CP on TSM-R18": (20.4, CPNet(18, 174)),
            "MS on TSM-R18": (15.0, MSNet(18, 174)),
        }
    return [_compare_network(model, printed, net) for model, (printed, net) in networks.items()]


def _compare_network(model: str, printed: float, net: nn.Module) -> FlopsRow:
    count = count_operations(net, (1, 8, 3, 224, 224))
    counted = count.operations / 1e9
    return FlopsRow(model, printed, counted, count.parameters / 1e6, round(counted, 1) == printed)


def _count_convolution(module: Any, _: Tensor, output: Tensor) -> tuple[int, int]:
    taps = module.weight[0].numel()
    bias = 0 if module.bias is None else 1
    return output.numel() * (taps + bias), output.numel() * taps


def _count_linear(module: Any, _: Tensor, output: Tensor) -> tuple[int, int]:
    inputs = module.in_features
    return output.numel() * (2 * inputs - 1), output.numel() * inputs


def _count_batch_norm(_: Any, maps: Tensor, __: Tensor) -> tuple[int, int]:
    return 4 * maps.numel(), 0


def _count_average_pool(_: Any, maps: Tensor, output: Tensor) -> tuple[int, int]:
    return maps.numel() + output.numel(), 0


def _count_matching(module: Any, maps: Tensor, output: MatchMaps) -> tuple[int, int]:
    """Count the correlation and a softmax."""
    # The authors' code counts the softmax of a map as that of one cell.
    pairs, channels = maps.shape[:2]
    displacements = module.patch**2
    cells = output.confidence.numel()
    return cells * displacements * (2 * channels - 1) + pairs * (3 * displacements - 1), 0


def _count_proposals(module: Any, maps: Tensor, _: Tensor) -> tuple[int, int]:
    """Count the products of all pairs of points, a multiply-add as 1; layers count separately."""
    h, w = (size // module.shrink for size in maps.shape[2:])
    clips = len(maps) // module.segments
    points = module.segments * h * w
    return clips * points**2 * module.channels, 0


def _count_prime_motion(module: Any, maps: Tensor, _: Tensor) -> tuple[int, int]:
    """Count the correlation; layers count separately."""
    pairs = len(maps) // module.segments * (module.segments - 1)
    products = pairs * maps.shape[2] * maps.shape[3] * module.patch**2
    return products * (2 * module.reduction[0].out_channels - 1), 0


_CountRule = Callable[[Any, Tensor, Any], tuple[int, int]]
_COUNT_RULES: dict[type[nn.Module], _CountRule] = {
    nn.Conv1d: _count_convolution,
    nn.Conv2d: _count_convolution,
    nn.Conv3d: _count_convolution,
    nn.Linear: _count_linear,
    nn.BatchNorm1d: _count_batch_norm,
    nn.BatchNorm2d: _count_batch_norm,
    nn.BatchNorm3d: _count_batch_norm,
    nn.AdaptiveAvgPool2d: _count_average_pool,
    nn.AdaptiveAvgPool3d: _count_average_pool,
    CorrespondenceProposal: _count_proposals,
    FeatureMatching: _count_matching,
    PrimeMotionBlock: _count_prime_motion,
}
"""By type of layer: a function that returns operations by the convention, and multiply-adds."""
