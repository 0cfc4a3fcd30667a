"""How long does one action for one environment take? W3: filter and policy, W1's model, batch 1."""

import numpy as np

from benchmarks.speed.measure import Measurement, measure
from benchmarks.speed.works import agent_of, learner

STEPS = 50


def cases() -> dict[str, Measurement]:
    """Seconds for `STEPS` actions, the carry handed on."""
    own = learner("vector", 512, "float32")
    agent = agent_of(own, "vector")
    obs = {"obs": np.random.default_rng(0).normal(size=(1, 24)).astype(np.float32)}

    def act() -> None:
        carry = agent.initial_carry(1)
        for step in range(STEPS):
            _, carry = agent.act(obs, carry, np.array([step == 0]), deterministic=False)

    return {"W3": measure(act, modules=(own.world_model, own.policy.actor), amount=STEPS, note="float32, batch 1")}
