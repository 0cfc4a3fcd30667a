"""The models and data of the speed table: the sizes at which other libraries were measured, and CartPole's own."""

from functools import cache

import torch

from agents.agent import Agent
from agents.experiment import load_options
from agents.learner import Learner
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Batch

BATCH, LENGTH, HORIZON = 16, 64, 15
ACTION = ActionSpec("continuous", (), 6)
OBS = {"vector": ObsSpec("vector", (24,)), "image": ObsSpec("image", (64, 64, 3))}
WIDTH = 256
SIZES = (
    "world_model=categorical",
    "world_model.categorical.groups=32",
    "world_model.categorical.classes=16",
    "world_model.recurrent.hidden=256",
    "world_model.recurrent.blocks=8",
    "world_model.recurrent.prior_layers=2",
    "world_model.ensemble.members=0",
    "world_model.trunk.units=256",
    "world_model.trunk.layers=3",
    "world_model.trunk.depth=16",
    "world_model.heads.units=256",
    "world_model.heads.layers=1",
    "world_model.heads.bins=255",
    "agent.hidden=256",
    "agent.layers=3",
    "agent.norm=true",
    "agent.bins=255",
    "agent.gradient=score",
    f"agent.horizon={HORIZON}",
    f"agent.starts={BATCH * LENGTH}",
    f"replay.batch={BATCH}",
    f"replay.length={LENGTH}",
)
"""One update at these sizes is W1; with deter 2048 it is W1b, from images it is W2."""


@cache
def learner(obs: str, deter: int, precision: str) -> Learner:
    """World model, policy and optimisers at the compared sizes, with fresh weights."""
    lines = [*SIZES, f"world_model.recurrent.deter={deter}", f"train.precision={precision}"]
    options = load_options(["env=cartpole", *lines])
    torch.manual_seed(0)
    agent = Agent(options, {"obs": OBS[obs]}, ACTION)
    return Learner(agent.world_model, agent.policy, options)


def agent_of(own: Learner, obs: str) -> Agent:
    """An agent that acts with the learner's own networks."""
    agent = Agent(own.options, {"obs": OBS[obs]}, ACTION)
    agent.world_model, agent.policy = own.world_model, own.policy
    return agent


@cache
def preset(name: str) -> Learner:
    """World model, policy and optimisers of `configs/env/NAME.yaml` (cartpole or pendulum)."""
    options = load_options([f"env={name}"])
    torch.manual_seed(0)
    obs, action = PRESETS[name]
    agent = Agent(options, {"obs": obs}, action)
    return Learner(agent.world_model, agent.policy, options)


PRESETS = {
    "cartpole": (ObsSpec("vector", (4,)), ActionSpec("discrete", (2,), 1)),
    "pendulum": (ObsSpec("vector", (3,)), ActionSpec("continuous", (), 1)),
}


def window(obs: ObsSpec, action: ActionSpec, batch: int, length: int) -> Batch:
    """Random windows without an episode's end: B x T transitions."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, length + 1, *obs.shape)
    if obs.kind == "image":
        value = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    else:
        value = torch.randn(shape, generator=generator)
    if action.kind == "continuous":
        actions = torch.rand(batch, length, action.size, generator=generator) * 2 - 1
    else:
        chosen = torch.randint(action.size, (batch, length), generator=generator)
        actions = torch.nn.functional.one_hot(chosen, action.size).float()
    no = torch.zeros(batch, length + 1, dtype=torch.bool)
    steps = no[:, 1:]
    reward = torch.randn(batch, length, generator=generator)
    return Batch({"obs": value}, actions, reward, steps, steps, ~steps, no, ~no)
