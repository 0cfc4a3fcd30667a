"""The plain layers that every part is made of: normalised perceptrons, block-diagonal layers, image trunks."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Perceptron(nn.Sequential):
    """Layers in a row. Under bfloat16 autocast what leaves them is float32 again: statistics and losses stay exact."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(..., inputs) -> (..., outputs)."""
        for part in self._modules.values():
            own = part._parameters  # type: ignore[union-attr]  # at batch 1 module calls cost as much as the products
            if type(part) is nn.Linear:
                x = F.linear(x, own["weight"], own["bias"])  # type: ignore[arg-type]
            elif type(part) is nn.LayerNorm:
                x = torch.layer_norm(x, part.normalized_shape, own["weight"], own["bias"], part.eps)
            elif type(part) is nn.SiLU:
                x = F.silu(x)
            else:
                x = part(x)
        return x.float() if x.dtype == torch.bfloat16 else x


def operand(x: Tensor) -> Tensor:
    """`x` as matrix products will read it: autocast would cast it anew for each of several readers.

    As it is without autocast, and where it has a gradient: those of its readers are summed in its own precision.
    """
    if x.requires_grad or not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def mlp(
    inputs: int, units: int, layers: int, outputs: int | None = None, *, norm: bool, scale: float = 1.0
) -> Perceptron:
    """`layers` times Linear-(LayerNorm-)SiLU, then an optional Linear to `outputs` whose initial weights are scaled.

    scale: 0 makes the output zero at the start.
    """
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, units, bias=not norm), *([nn.LayerNorm(units)] if norm else []), nn.SiLU()]
        inputs = units
    if outputs is not None:
        last = nn.Linear(inputs, outputs)
        with torch.no_grad():
            last.weight.mul_(scale)
            last.bias.zero_()
        parts.append(last)
    return Perceptron(*parts)


def identity_path(inputs: int, outputs: int) -> nn.Linear | None:
    """A linear map that starts as the identity on the first min(inputs, outputs) axes; None without inputs."""
    if inputs == 0:
        return None
    path = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        path.weight.copy_(torch.eye(outputs, inputs))
    return path


class BlockLinear(nn.Module):
    """G independent linear maps as one batched product, blocks first: (G, B, in/G) -> (G, B, out/G).

    Weights are stored blocks first (G, in/G, out/G), so that one `baddbmm` serves them all. The initial range uses the
    fan-in of a block, not of the whole layer.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"BlockLinear: {inputs} -> {outputs} does not divide into {blocks} blocks")
        self.blocks = blocks
        bound = 1 / sqrt(inputs // blocks)
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(G, B, in/G) -> (G, B, out/G)."""
        return torch.baddbmm(self.bias, x, self.weight)


def image_stages(height: int, width: int, patch: int = 2) -> list[tuple[int, int]]:
    """Sizes of the maps, the image first: over `patch`, then halved until both sides are at most 4; rounded up."""
    sizes = [(height, width)]
    while len(sizes) == 1 or max(sizes[-1]) > 4:
        h, w = sizes[-1]
        by = patch if len(sizes) == 1 else 2
        sizes.append((-(-h // by), -(-w // by)))
    return sizes


def image_channels(stages: int, depth: int, patch: int = 2) -> list[int]:
    """Channels of each map behind the image: `depth` at half its size, twice that at each halving, at most 8 times."""
    return [depth * 2 ** min(stage + patch.bit_length() - 2, 3) for stage in range(stages)]


class ImageTrunk(nn.Module):
    """Strided convolutions down to at most 4x4: float image (N, C, H, W) in [-0.5, 0.5] -> (N, width).

    patch: stride of the first one, 2, 4 or 8: on a CPU the largest maps cost most.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, patch: int = 2) -> None:
        super().__init__()
        height, width, inputs = shape
        sizes = image_stages(height, width, patch)
        layers: list[nn.Module] = []
        for stage, outputs in enumerate(image_channels(len(sizes) - 1, depth, patch)):
            stride = 2 if stage else patch
            convolution = nn.Conv2d(inputs, outputs, 2 * stride - 1, stride, stride - 1, bias=False)
            layers += [convolution, ChannelNorm(outputs), nn.SiLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.width = inputs * sizes[-1][0] * sizes[-1][1]

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width)."""
        return self.layers(image.contiguous(memory_format=torch.channels_last)).flatten(1)


class ImageStem(nn.Module):
    """The trunk backwards: (N, F) -> float image (N, C, H, W), channels last in memory.

    Nearest upsampling and convolution up to the image's size over `patch`, then each pixel writes a block of `patch` by
    `patch` pixels of the image: the large maps of the last stage are never made.
    """

    def __init__(self, features: int, shape: tuple[int, int, int], depth: int, patch: int = 2) -> None:
        super().__init__()
        height, width, channels = shape
        self.size, self.patch, self.channels = (height, width), patch, channels
        self.sizes = image_stages(height, width, patch)[:0:-1]  # from the smallest map to the largest
        widths = image_channels(len(self.sizes), depth, patch)[::-1]
        self.top = widths[0]
        self.project = nn.Linear(features, self.top * self.sizes[0][0] * self.sizes[0][1])
        pairs = list(zip(widths, widths[1:], strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, 1, 1, bias=False) for i, o in pairs)
        self.norms = nn.ModuleList(ChannelNorm(o) for _, o in pairs)
        kernel = 3 if patch == 2 else 1
        self.out = nn.Conv2d(widths[-1], patch * patch * channels, kernel, padding=kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, C, H, W)."""
        x = self.project(features).unflatten(-1, (self.top, *self.sizes[0]))  # (N, top, h, w)
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm, size in zip(self.convolutions, self.norms, self.sizes[1:], strict=True):
            x = F.silu(norm(convolution(F.interpolate(x, size=size, mode="nearest"))))
        blocks = self.out(x).movedim(1, -1).unflatten(-1, (self.patch, self.patch, self.channels))  # (N, h, w, p, p, C)
        image = blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (N, h * p, w * p, C)
        return image[:, : self.size[0], : self.size[1]].movedim(-1, 1)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each pixel (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return NormRows.apply(x.movedim(1, -1), self.scale).movedim(-1, 1)  # type: ignore[union-attr]


class NormRows(torch.autograd.Function):
    """`NormRows.apply(x, scale)`: x (..., C) divided by its root mean square over C, times scale (C,).

    By hand because image maps are large and the processor waits for memory: autograd makes more passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:  # noqa: ANN401
        """(..., C) -> (..., C)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = length.square_().div_(x.shape[-1]).add_(1e-6).rsqrt_().to(x.dtype)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, scale)
        return normed * scale.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """With n = x / rms: dx = (scale g - n mean(scale g n)) / rms, dscale = sum(g n)."""
        normed, inverse, scale = ctx.saved_tensors
        (gradient,) = gradients
        along = gradient * normed
        mean = (along @ scale.to(along.dtype)).unsqueeze(-1) / normed.shape[-1]
        own = torch.addcmul(gradient * scale.to(gradient.dtype), normed, mean, value=-1).mul_(inverse)
        return own, along.flatten(0, -2).sum(0, dtype=scale.dtype)
