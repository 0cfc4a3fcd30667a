"""What do a batch from the replay, a collected CartPole step and the guard's part of it cost?"""

from contextlib import closing

import gymnasium
import numpy as np

from agents.agent import Agent
from agents.collector import Collector
from agents.experiment import load_options
from benchmarks.speed.measure import Measurement, measure
from envs.make import make_env
from envs.vector import VectorEnv
from worldmodels.replay import Replay

STEPS = 500


def cases() -> dict[str, Measurement]:
    """Seconds for `STEPS` of each."""
    return _collecting() | _stepping()


def _collecting() -> dict[str, Measurement]:
    options = load_options(["env=cartpole"])
    with VectorEnv(options.env, 1) as envs:
        agent = Agent(options, envs.obs_specs, envs.action_spec)
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=20_000)
        collector = Collector(agent, envs, replay, seed=0, rng=np.random.default_rng(0))

        def collect() -> None:
            for _ in range(STEPS):
                collector.step(random=False)

        def sample(rng: np.random.Generator) -> None:
            for _ in range(STEPS):
                replay.sample(options.replay.batch, options.replay.length, rng)

        found = {"collect": measure(collect, amount=STEPS, count_flops=False, note="one CartPole step, stored")}
        rng = np.random.default_rng(1)
        found["sample"] = measure(lambda: sample(rng), amount=STEPS, count_flops=False, note="16 x 32 windows")
    return found


def _stepping() -> dict[str, Measurement]:
    """The same CartPole without and with the guard."""
    options = load_options(["env=cartpole"]).env
    plain = gymnasium.make(options.id, disable_env_checker=True)
    with closing(make_env(options)) as guarded, closing(plain):
        left = np.array([1.0, 0.0], np.float32)

        def play_plain() -> None:
            plain.reset(seed=0)
            for _ in range(STEPS):
                if any(plain.step(0)[2:4]):
                    plain.reset()

        def play_guarded() -> None:
            guarded.reset(seed=0)
            for _ in range(STEPS):
                if any(guarded.step(left)[2:4]):
                    guarded.reset()

        return {
            "environment": measure(play_plain, amount=STEPS, count_flops=False, note="gymnasium alone"),
            "guarded": measure(play_guarded, amount=STEPS, count_flops=False, note="encoded and checked"),
        }
