"""The Jensen-Renyi divergence against quadrature."""

import torch

from worldmodels.uncertainty import jensen_renyi


def test_jensen_renyi_is_that_of_numerical_quadrature():
    torch.manual_seed(0)
    mean, std = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64) + 0.3
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).unsqueeze(2)  # (N, N, 1, 2)
    density = torch.distributions.Normal(mean, std).log_prob(grid).sum(-1).exp()  # (N, N, K)
    cell = (axis[1] - axis[0]) ** 2

    def renyi(p):
        return -(p.square().sum((0, 1)) * cell).log()

    expected = renyi(density.mean(-1)) - renyi(density).mean()
    torch.testing.assert_close(jensen_renyi(mean, std), expected, rtol=1e-4, atol=1e-6)


def test_jensen_renyi_of_identical_members_is_zero_and_of_far_ones_the_logarithm_of_their_number():
    mean, std = torch.zeros(4, 5, 3), torch.full((4, 5, 3), 1e-3)
    torch.testing.assert_close(jensen_renyi(mean, std), torch.zeros(5), rtol=0, atol=1e-5)
    apart = mean + 100 * torch.arange(4.0)[:, None, None]
    torch.testing.assert_close(jensen_renyi(apart, std), torch.full((5,), 4.0).log(), rtol=1e-4, atol=0)
