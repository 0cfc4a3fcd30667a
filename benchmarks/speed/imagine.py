"""How many latent transitions a second can be imagined? W8: 1024 states x 15 steps with W1's model, no gradients."""

import torch

from benchmarks.speed.measure import Measurement, measure
from benchmarks.speed.works import BATCH, HORIZON, LENGTH, learner
from worldmodels.types import State


def cases() -> dict[str, Measurement]:
    """One imagination with rewards and continuations, in bfloat16."""
    own = learner("vector", 512, "bfloat16")
    count = BATCH * LENGTH
    context, cache = own.world_model.temporal_prior.initial(count)
    start = State(context, torch.zeros(count, own.world_model.family.width), cache)

    def imagine() -> None:
        with torch.no_grad(), own.products():
            own.world_model.imagine(start, own.policy.actor.sample, HORIZON, entropy=False)

    modules = (own.world_model, own.policy.actor)
    return {"W8": measure(imagine, modules=modules, rated=count * HORIZON, note="bfloat16")}
