"""The plain layers: shapes of every image size, block products against a loop, initial ranges."""

from math import sqrt

import pytest
import torch
from torch import nn

from worldmodels.nets import (
    BlockLinear,
    ChannelNorm,
    ImageStem,
    ImageTrunk,
    NormRows,
    identity_path,
    image_stages,
    mlp,
    operand,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_block_linear_is_a_loop_over_blocks(blocks):
    layer = BlockLinear(8, 12, blocks)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(blocks, 5, 8 // blocks)
    expected = torch.stack([x[g] @ layer.weight[g] + layer.bias[g, 0] for g in range(blocks)])
    torch.testing.assert_close(layer(x), expected)


def test_trap_wrong_fan_in_in_block_linear_initialisation():
    layer = BlockLinear(4096, 4096, 16)
    bound = 1 / sqrt(4096 // 16)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / sqrt(3), rel=0.02)
    output = layer(torch.randn(16, 64, 256))
    assert output.std().item() == pytest.approx(1 / sqrt(3), rel=0.1)  # 4 times less with the whole layer's fan-in


def test_block_linear_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="7 -> 8 does not divide into 2 blocks"):
        BlockLinear(7, 8, 2)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (10, 10), (17, 23), (64, 64), (96, 31)])
def test_image_stages_end_at_most_four_and_trunk_and_stem_fit(size, patch):
    sizes = image_stages(*size, patch)
    assert sizes[0] == size and max(sizes[-1]) <= 4
    strides = [patch] + [2] * (len(sizes) - 2)
    for stride, before, after in zip(strides, sizes, sizes[1:], strict=False):
        assert after == tuple((side + stride - 1) // stride for side in before)
    trunk, stem = ImageTrunk((*size, 3), 2, patch), ImageStem(5, (*size, 3), 2, patch)
    assert trunk(torch.randn(2, 3, *size)).shape == (2, trunk.width)
    image = stem(torch.randn(2, 5))
    assert image.shape == (2, 3, *size) and image.movedim(1, -1).flatten(2).shape == (2, size[0], size[1] * 3)


@pytest.mark.parametrize("patch", [2, 4])
def test_a_pixel_of_the_decoder_writes_its_own_block_of_the_image(patch):
    stem = ImageStem(5, (4 * patch, 4 * patch, 3), 2, patch)
    with torch.no_grad():
        stem.out.weight.zero_()
        stem.out.bias.copy_(torch.arange(patch * patch * 3.0))
    image = stem(torch.randn(1, 5))[0].movedim(0, -1)  # (H, W, C)
    expected = torch.arange(patch * patch * 3.0).view(patch, patch, 3).tile(4, 4, 1)
    assert torch.equal(image, expected)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_every_pixel_reaches_the_features_of_an_image(patch):
    trunk = ImageTrunk((17, 23, 1), 2, patch)
    image = torch.randn(1, 1, 17, 23, requires_grad=True)
    (gradient,) = torch.autograd.grad(trunk(image).square().sum(), image)
    assert (gradient != 0).all()


def test_perceptron_scale_is_that_of_its_last_layer():
    silent = mlp(3, 8, 2, 4, norm=True, scale=0.0)
    assert silent(torch.randn(5, 3)).abs().max() == 0
    torch.manual_seed(1)
    full = mlp(3, 8, 1, 4, norm=False)
    torch.manual_seed(1)
    tenth = mlp(3, 8, 1, 4, norm=False, scale=0.1)
    x = torch.randn(5, 3)
    torch.testing.assert_close(tenth(x), 0.1 * full(x))
    assert mlp(3, 8, 0, 4, norm=True)(x).shape == (5, 4) and mlp(3, 8, 1, norm=True)(x).shape == (5, 8)


@pytest.mark.parametrize("norm", [False, True])
def test_perceptron_is_its_layers_in_a_row(norm):
    net = mlp(3, 8, 2, 4, norm=norm).append(nn.Tanh())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.rand_like(parameter))
    x = torch.randn(5, 3)
    plain = x
    for layer in net:
        plain = layer(plain)
    assert torch.equal(net(x), plain)


def test_an_operand_is_cast_once_and_read_as_before():
    net, x = mlp(32, 8, 1, 4, norm=True), torch.randn(5, 32)
    assert operand(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        cast = operand(x)
        assert cast.dtype == torch.bfloat16 and torch.equal(net(cast), net(x)) and net(cast).dtype == torch.float32
        asked = x.clone().requires_grad_()
        assert operand(asked) is asked


def test_identity_path_starts_as_the_identity_on_the_shared_axes():
    path = identity_path(2, 4)
    assert path is not None
    assert path(torch.tensor([[3.0, -1.0]])).tolist() == [[3.0, -1.0, 0.0, 0.0]]
    narrow = identity_path(3, 2)
    assert narrow is not None and narrow(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0]
    assert identity_path(0, 4) is None


def test_channel_norm_gives_every_pixel_unit_mean_square():
    out = ChannelNorm(6)(torch.randn(2, 6, 3, 3) * 50)
    torch.testing.assert_close(out.square().mean(1), torch.ones(2, 3, 3), rtol=1e-4, atol=1e-4)


def test_channel_norm_and_its_gradient_are_those_of_the_formula():
    x, scale = torch.randn(2, 3, 3, 6, dtype=torch.double), torch.randn(6, dtype=torch.double)
    plain = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale
    torch.testing.assert_close(NormRows.apply(x, scale), plain)
    torch.autograd.gradcheck(NormRows.apply, (x.requires_grad_(), scale.requires_grad_()))


def test_channel_norm_in_bfloat16_is_close_to_that_in_float32_and_learns_in_float32():
    norm, x = ChannelNorm(16), torch.randn(2, 16, 5, 5) * 3
    half = norm(x.bfloat16())
    torch.testing.assert_close(half.float(), norm(x), rtol=2e-2, atol=2e-2)
    half.float().square().sum().backward()
    assert norm.scale.grad is not None and norm.scale.grad.dtype == torch.float32
