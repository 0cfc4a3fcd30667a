"""A world model that is a linear system exactly, and that system as an ordinary environment."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from worldmodels.options import ObjectiveOptions
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.world_model import WorldModel

MATRIX = torch.tensor([[1.0, 0.1], [-0.2, 0.95]])
PUSH = torch.tensor([[0.0], [0.3]])
START = torch.tensor([1.0, 0.0])
LIMIT = 1.6
"""An episode ends where the first number passes it."""


def advance(z, action):
    """(..., 2), (..., 1) -> next z (..., 2), reward (...), whether it goes on (...) as 0 or 1."""
    following = z @ MATRIX.T + action @ PUSH.T
    reward = -following.square().sum(-1) - 0.1 * action.square().sum(-1)
    return following, reward, (following[..., 0].abs() <= LIMIT).float()


class Linear(gymnasium.Env):
    """The system itself."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.z = START
        return self.z.numpy().copy(), {}

    def step(self, action):
        self.z, reward, goes_on = advance(self.z, torch.from_numpy(np.asarray(action)))
        return self.z.numpy().copy(), float(reward), not bool(goes_on), False, {}


class Point:
    """A latent without spread: raw parameters are the latent."""

    width = parameters = 2
    ordered = False

    def sample(self, raw):
        return raw

    mode = sample

    def entropy(self, raw):
        return torch.zeros(raw.shape[:-1])


class Prior(nn.Module):
    """Context = [last z, last action]."""

    context_size, parallel = 3, False

    def initial(self, batch):
        return torch.zeros(batch, 3), None

    def advance(self, state, action):
        return torch.cat([state.z, action], -1), None

    def prior(self, context):
        return advance(context[..., :2], context[..., 2:])[0]


class Head:
    """Reward or continuation of the state reached, which remembers what led to it."""

    def __init__(self, index):
        self.index = index

    def __call__(self, features):
        value = advance(features[..., :2], features[..., 2:3])[self.index]
        return type("Answer", (), {"mean": value, "probs": value})


class Marginal(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(START.expand(2, 2).clone())

    def parameters_of(self, is_first):
        return self.table[is_first.long()]


class Decoder(nn.Module):
    def forward(self, features):
        return {"obs": type("Answer", (), {"mode": features[..., 3:]})}


def linear_model() -> WorldModel:
    """The system as a world model: nothing is learned, nothing is random."""
    return WorldModel(
        encoder=None,
        family=Point(),
        temporal_prior=Prior(),
        marginal=Marginal(),
        decoder=Decoder(),
        reward=Head(1),
        continuation=Head(2),
        standardizer=None,
        objective=ObjectiveOptions(),
        obs_specs={"obs": ObsSpec("vector", (2,))},
        action_spec=ActionSpec("continuous", (), 1),
    )
