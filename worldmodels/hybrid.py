"""Hybrid decisions: p(y, x) = p(y | x) p(x) with shared invertible features, so that a decision knows its own input."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from worldmodels.distributions.gaussian import LOG_2PI
from worldmodels.fitting import minimise
from worldmodels.nets import mlp
from worldmodels.types import Kind
from worldmodels.uncertainty.density import FlowDensity
from worldmodels.uncertainty.detection import p_value

Choice = Literal["class", "real"]
"""What is decided: one of some classes (or discrete actions), or a vector of real numbers (a continuous action)."""


class Decision(NamedTuple):
    """What to do, and how far to trust it.

    choice: (N,) class, or (N, Y) real numbers. probability: (N,) p(y | x) of the choice; a density if it is real.
    p_value: (N,) how probable the input is: the share of nominal inputs that are at most as probable as it.
    """

    choice: Tensor
    probability: Tensor
    p_value: Tensor


class Hybrid(nn.Module):
    """z = f(x) by a coupling flow; log p(x) = log N(z) + log |det| exactly, and p(y | x) by a linear head on z.

    Trained on -log p(y | x) - weight / D log p(x) (Nalisnick et al. 2019, eq. 3): per dimension, since a density of D
    numbers is D times as loud as one label. With weight 0 it is a plain classifier that happens to be invertible.

    Args: features: D of x (N, D). outputs: number of classes, or width of a real choice. kind, transforms, units,
        layers: of the flow.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        choice: Choice = "class",
        weight: float = 1.0,
        kind: str = "realnvp",
        transforms: int = 6,
        units: int = 64,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.choice: Choice = choice
        self.weight = weight / features
        self.density = FlowDensity(features, kind=kind, transforms=transforms, units=units, layers=layers)
        self.head = _Head(features, outputs, choice)

    def log_prob(self, x: Tensor) -> tuple[Tensor, Kind]:
        """log p(x) in nats (N,), exact."""
        return self.density.log_prob(x)

    def log_choice(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x) in nats (N,)."""
        return self.head.log_prob(self.density.latent(x)[0], y)

    def best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable choice, and its probability (N,)."""
        return self.head.best(self.density.latent(x)[0])

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """-log p(y | x) - weight / D log p(x), nats per row."""
        z, log_volume = self.density.latent(x)
        log_prob = log_volume - 0.5 * (z.square() + LOG_2PI).sum(-1)
        return -(self.head.log_prob(z, y) + self.weight * log_prob).mean()


class Separate(nn.Module):
    """The ablation: a flow for p(x) and a perceptron for p(y | x) that share nothing.

    Args: as `Hybrid`; flow_units, units: of the flow's conditioners and of the perceptron's two layers.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        choice: Choice = "class",
        transforms: int = 6,
        flow_units: int = 48,
        units: int = 64,
    ) -> None:
        super().__init__()
        self.choice: Choice = choice
        self.density = FlowDensity(features, transforms=transforms, units=flow_units)
        self.trunk = mlp(features, units, 2, norm=False)
        self.head = _Head(units, outputs, choice)

    def log_prob(self, x: Tensor) -> tuple[Tensor, Kind]:
        """log p(x) in nats (N,), exact."""
        return self.density.log_prob(x)

    def log_choice(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x) in nats (N,)."""
        return self.head.log_prob(self.trunk(self.density.standardize(x)), y)

    def best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable choice, and its probability (N,)."""
        return self.head.best(self.trunk(self.density.standardize(x)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """-log p(y | x) - 1 / D log p(x): with no parameter in common, no weight trades one for the other."""
        return -(self.log_choice(x, y) + self.density.log_prob(x)[0] / x.shape[1]).mean()


class _Head(nn.Module):
    """p(y | z) on linear features: softmax over classes, or a Gaussian with one learned scale a dimension."""

    def __init__(self, features: int, outputs: int, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.linear = nn.Linear(features, outputs)
        self.log_scale = nn.Parameter(torch.zeros(outputs)) if choice == "real" else None

    def log_prob(self, z: Tensor, y: Tensor) -> Tensor:
        """log p(y | z) in nats (N,); y (N,) integers, or (N, Y)."""
        out = self.linear(z)
        if self.log_scale is None:
            return out.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        error = (y - out) / self.log_scale.exp()
        return -(0.5 * (error.square() + LOG_2PI) + self.log_scale).sum(-1)

    def best(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mode of p(y | z) and its probability or density (N,)."""
        out = self.linear(z)
        if self.log_scale is None:
            probability, choice = out.softmax(-1).max(-1)
            return choice, probability
        return out, self.log_prob(z, out).exp()


def fit(
    model: Hybrid | Separate,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 1000,
    batch: int = 128,
    rate: float = 5e-3,
    noise: float = 0.0,
    seed: int = 0,
) -> None:
    """Standardise by x (N, D), then minimise the model's loss by Adam, the rate falling to zero.

    noise: Gaussian standard deviation that is added to x at every step; it bounds the density of data on a surface.
    Random numbers outside stay untouched.
    """
    model.density.fit_moments(x)

    def loss() -> Tensor:
        rows = torch.randint(len(x), (min(batch, len(x)),))
        return model.loss(x[rows] + noise * torch.randn_like(x[rows]), y[rows])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        minimise(model.parameters(), loss, steps=steps, rate=rate)


class Decider:
    """`decide`: a model's choice together with how probable the input is among nominal ones it was not trained on."""

    def __init__(self, model: Hybrid | Separate, nominal: Tensor) -> None:
        """nominal: (N, D) held-out inputs; p-values are against these and no smaller than 1 / (N + 1)."""
        self.model = model
        with torch.no_grad():
            self._nominal = -model.log_prob(nominal)[0]

    @torch.no_grad()
    def decide(self, x: Tensor) -> Decision:
        """Inputs (N, D) -> choices, their probabilities, and how probable each input is."""
        choice, probability = self.model.best(x)
        return Decision(choice, probability, p_value(self._nominal, -self.model.log_prob(x)[0]))
