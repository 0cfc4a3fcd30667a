"""Agents with known behaviour, for tests of what is built around an agent."""

import numpy as np

from envs.make import make_env
from envs.options import EnvOptions


class CountingAgent:
    """Acts by what it saw and by how long it has been acting: the carry counts steps since the episode began.

    The action is (seen code + steps in the episode) modulo the number of actions, so that a wrong observation, a carry
    that leaks from one episode into the next or an environment that is mixed up with another changes the return.
    """

    def __init__(self, options: EnvOptions | None = None) -> None:
        self.env_options = options or EnvOptions(id="worldmodels/Counting-v0")
        env = make_env(self.env_options)
        self.obs_specs, self.action_spec = env.obs_specs, env.action_spec
        env.close()
        self.train_steps = 1234
        self.calls = 0

    def initial_carry(self, batch):
        return np.full(batch, 10**6)

    def act(self, obs, carry, is_first, *, deterministic):
        self.calls += 1
        carry = np.where(is_first, 0, carry + 1)
        first = next(iter(obs.values()))
        code = first.reshape(len(carry), -1)[:, -1].astype(np.int64)
        choice = code + carry
        if not deterministic:
            choice = choice + np.random.randint(0, 100, size=len(carry))
        action = np.zeros((len(carry), self.action_spec.size), dtype=np.float32)
        action[np.arange(len(carry)), choice % self.action_spec.size] = 1
        return action, carry
