import cv2
import numpy as np
import pytest
import torch
from support.command import mrx

from mrx import render
from mrx.backbones.i3d import I3D
from mrx.backbones.resnet import ResNet
from mrx.methods.mbpm import MBPM
from mrx.render.diverging import diverging_table
from mrx.visualize.filters import find_first_layers


def picture(path):
    return cv2.imread(str(path))[..., ::-1]


def draw(*words):
    ran = mrx("visualize", "--kernels", *words)
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")
    return picture(words[words.index("-o") + 1])


def saved(path, state, **extra):
    torch.save({"state_dict": state, **extra} if extra else state, path)
    return path


def trained(factors):
    """Make the state of a band-pass with each channel's weights scaled by a factor."""
    factors = torch.tensor(factors)
    return {
        key: weight * factors.view(-1, *[1] * (weight.ndim - 1))
        for key, weight in MBPM().state_dict().items()
    }


def holds(page, part):
    """Return True if a page has an exact copy of a picture somewhere."""
    found = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
    row, column = np.unravel_index(found.argmin(), found.shape)
    height, width = part.shape[:2]
    return np.array_equal(page[row : row + height, column : column + width], part)


def test_a_method_is_drawn_as_it_is_made(tmp_path):
    page = draw("-m", "mbpm", "-o", tmp_path / "a.png")
    kernel = MBPM().conv_s.weight[0, 0].detach()
    assert holds(page, render.kernel_map(kernel, cell=33, text=15))
    wide = draw("-m", "mbpm", "-p", "size=7", "-p", "sigma=0.9", "-o", tmp_path / "b.png")
    other = MBPM(sigma=0.9, size=7).conv_s.weight[0, 0].detach()
    assert holds(wide, render.kernel_map(other, cell=42, text=15))


def test_before_and_after_training_share_one_scale(tmp_path):
    file = saved(tmp_path / "w.pt", trained([2.0]), epoch=1)
    page = draw("-m", "mbpm", "--weights", file, "-o", tmp_path / "a.png")
    kernel = MBPM().conv_s.weight[0, 0].detach()
    bound = 2 * kernel.max().item()
    before, after = np.split(page[:, : page.shape[1] // 2 * 2], 2, axis=1)
    assert holds(before, render.kernel_map(kernel, bound=bound, cell=33, text=15))
    assert holds(after, render.kernel_map(2 * kernel, bound=bound, cell=33, text=15))


def test_channels_that_differ_are_drawn_beside_each_other(tmp_path):
    file = saved(tmp_path / "w.pt", trained([1.0, 1.5, 2.0]))
    page = draw("-m", "mbpm", "--weights", file, "-o", tmp_path / "a.png")
    kernel = MBPM().conv_s.weight[0, 0].detach()
    bound = 2 * kernel.max().item()
    for factor in (1, 1.5, 2):
        assert holds(page, render.kernel_map(factor * kernel, bound=bound, cell=33, text=15))


def test_the_first_layer_of_a_checkpoint(tmp_path):
    state = ResNet(depth=18, classes=2).state_dict()
    wrapped = {f"module.base_model.{key}": value for key, value in state.items()}
    file = saved(tmp_path / "net.pth", wrapped, epoch=3)
    page = draw("--weights", file, "-o", tmp_path / "a.png")
    assert holds(page, render.filters_to_rgb(state["conv1.weight"], cell=7, gap=4))
    each = draw("--weights", file, "-o", tmp_path / "b.png", "--per-frame-scale")
    assert holds(each, render.filters_to_rgb(state["conv1.weight"], each=True, cell=7, gap=4))


def test_filters_in_time_are_strips(tmp_path):
    torch.manual_seed(0)
    flat = saved(tmp_path / "flat.pth", I3D(classes=2).state_dict())
    deep = saved(tmp_path / "deep.pth", {"stem.weight": torch.randn(8, 3, 5, 7, 7)})
    page = draw("--weights", flat, "--weights", deep, "-o", tmp_path / "a.png")
    strips = render.filters_to_rgb(torch.load(deep)["stem.weight"], cell=7, gap=4)
    assert holds(page, strips)
    assert page.shape[1] > strips.shape[1] + 8 * 50


def test_first_layers_are_those_of_both_paths_of_the_network(tmp_path):
    state = {f"mbpf1.{key}": value for key, value in MBPM().state_dict().items()}
    state |= {name: torch.randn(16, 3, 7, 7) for name in ("conv1.weight", "d_conv1.weight")}
    file = saved(tmp_path / "bqn.pth", state)
    assert list(find_first_layers(state)) == ["conv1", "d_conv1"]
    both = draw("--weights", file, "-o", tmp_path / "a.png")
    busy = draw("--weights", file, "--layer", "d_conv1", "--channel", 1, "-o", tmp_path / "b.png")
    assert both.shape[1] > 1.7 * busy.shape[1]
    only = render.filters_to_rgb(state["d_conv1.weight"][:, 1:2], cell=7, gap=4)
    assert holds(busy, only)
    kernel = draw("-m", "mbpm", "--weights", file, "-o", tmp_path / "c.png")
    assert len(kernel) > 600


def test_pa_shows_its_filters_before_and_after(tmp_path):
    state = {"weight": torch.randn(8, 3, 7, 7), "bias": torch.zeros(8)}
    file = saved(tmp_path / "w.pt", {f"PA.shallow_conv.{k}": v for k, v in state.items()})
    page = draw("-m", "pa", "--weights", file, "-o", tmp_path / "a.png")
    bound = state["weight"].abs().max().item()
    assert holds(page, render.filters_to_rgb(state["weight"], bound=bound, cell=7, gap=4))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-o", "a.mp4"], "--kernels makes one .png, not a.mp4"),
        (["clip.mp4", "-o", "a.png"], "--kernels draws no INPUT: leave out clip.mp4"),
        (["-o", "a.png", "-m", "tvnet"], "nothing to draw: tvnet has no spatial filters"),
        (["-o", "a.png", "-m", "nope"], "no method nope"),
        (["-o", "a.png", "-m", "mbpm", "-m", "pa"], "--kernels draws one method"),
        (["-o", "a.png", "--style", "hsv"], "--style does not fit the kernels of mbpm"),
        (["-o", "a.png", "--layer", "conv1"], "--layer does not fit the kernels of mbpm"),
        (["-o", "a.png", "--scale", "0"], "--scale is a finite number"),
        (["-o", "a.png", "--scale", "50"], "--scale 50: the picture of the kernels is too large"),
        (["-o", "a.png", "--weights", "no.pt"], "no.pt: cannot read weights"),
        (["-o", "a.png", "--weights", "head.pt"], "no spatial filters, only fc.weight (2 x 8)"),
        (["-o", "a.png", "--weights", "mbpm.pt"], "-m mbpm draws its motion band-pass"),
        (["-o", "a.png", "--weights", "net.pt", "-p", "size=7"], "--param does not fit"),
        (["-o", "a.png", "--weights", "net.pt", "--layer", "b"], "net.pt has a (4 x 3 x 7 x 7)"),
        (["-o", "a.png", "--weights", "net.pt", "--channel", "3"], "a has inputs 0 to 2"),
        (["-o", "a.png", "--weights", "net.pt", "-m", "mbpm"], "net.pt does not fit MBPM"),
        (["-o", "a.png", "--weights", "nan.pt", "-m", "mbpm"], "not finite"),
    ],
)
def test_kernels_that_cannot_be_drawn_are_refused(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    saved("head.pt", {"fc.weight": torch.zeros(2, 8)})
    saved("mbpm.pt", MBPM().state_dict())
    saved("nan.pt", trained([float("nan")]))
    saved("net.pt", {"a.weight": torch.ones(4, 3, 7, 7)})
    ran = mrx("visualize", "--kernels", *words)
    assert (ran.code, ran.stderr.count("\n")) == (2, 1)
    assert text in ran.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_missing_input_and_layer_without_kernels_are_refused():
    nothing = mrx("visualize", "-o", "a.png")
    layer = mrx("visualize", "a.mp4", "-o", "a.png", "--layer", "conv1")
    assert (nothing.code, layer.code) == (2, 2)
    assert "give an INPUT, or --kernels" in nothing.stderr
    assert "--layer is for --kernels" in layer.stderr


def test_full_red_is_the_largest_weight(tmp_path):
    page = draw("-o", tmp_path / "a.png")
    full = (page == diverging_table()[254]).all(2)
    assert full.sum() > 33 * 33
