"""Environments to replay: one vector step at a time, in whole episodes where a barrier is near."""

import numpy as np
import torch

from agents.agent import Agent, Carry
from envs.vector import VectorEnv
from worldmodels.errors import CheckpointError
from worldmodels.replay import Replay
from worldmodels.seeding import episode_seed
from worldmodels.specs import ActionSpec
from worldmodels.states import State

Finished = tuple[float, int]
"""Return and length (simulator steps) of an episode."""


def random_actions(spec: ActionSpec, count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform actions (count, A) in the toolkit's encoding."""
    if spec.kind == "continuous":
        return rng.uniform(-1, 1, (count, spec.size)).astype(np.float32)
    blocks = [np.eye(n, dtype=np.float32)[rng.integers(n, size=count)] for n in spec.classes]
    return np.concatenate(blocks, -1)


class Collector:
    """Steps the environments whose episode is open and stores what they return.

    While `draining`, an environment whose episode ended waits; `idle` is True when all wait. Episode n of stream i is
    reset with a seed that is a function of (run seed, i, n) alone; streams count from `first_stream`. With chance
    `wander` a step, one random action is begun and repeated, `stretch` steps in the mean (a geometric number), instead
    of what the agent says: small steps of noise take back each other, these lead somewhere (Dabney et al. 2021).
    hold: steps for which a random action of the warm-up is kept, from the beginning of an episode on.
    """

    def __init__(
        self,
        agent: Agent,
        envs: VectorEnv,
        replay: Replay,
        *,
        seed: int,
        rng: np.random.Generator,
        first_stream: int = 0,
        wander: float = 0.0,
        stretch: float = 8.0,
        hold: int = 1,
    ) -> None:
        self.agent, self.envs, self.replay = agent, envs, replay
        self.seed, self.rng, self.first_stream, self.hold = seed, rng, first_stream, hold
        self.draining = False
        self.episodes = [0] * envs.num_envs
        self._open = np.zeros(envs.num_envs, dtype=bool)
        self._first = np.ones(envs.num_envs, dtype=bool)
        self._return = np.zeros(envs.num_envs)
        self._length = np.zeros(envs.num_envs, dtype=np.int64)
        self._obs: dict[str, np.ndarray] = {}
        self._carry: Carry = agent.initial_carry(envs.num_envs)
        self._wander, self._stretch = wander, stretch
        self._left = np.zeros(envs.num_envs, dtype=np.int64)  # repetitions that are still to come
        self._repeated = np.zeros((envs.num_envs, envs.action_spec.size), dtype=np.float32)

    @property
    def idle(self) -> bool:
        """Whether no episode is open."""
        return not self._open.any()

    def step(self, *, random: bool) -> tuple[int, list[Finished]]:
        """One action for every environment that is at work. Returns simulator steps taken and finished episodes."""
        self._begin()
        active = np.flatnonzero(self._open)
        if random:
            drawn = random_actions(self.agent.action_spec, self.envs.num_envs, self.rng)
            actions, _ = self._repeating(self._left == 0, drawn, np.full(len(drawn), self.hold))
            self._carry = self.agent.initial_carry(self.envs.num_envs)
            self._first[:] = True  # what was done at random is not remembered; the next state starts from what is seen
        else:
            actions, self._carry = self.agent.act(self._obs, self._carry, self._first, deterministic=False)
            self._first[:] = False
            if self._wander:
                actions = self._wandering(actions)
                self._carry = self._carry._replace(action=torch.from_numpy(actions).to(self._carry.action))
        result = self.envs.step(active.tolist(), actions[active])
        finished: list[Finished] = []
        for row, i in enumerate(active.tolist()):
            if result.dropped[row]:
                self.replay.abandon(i)
                self._open[i] = False
                continue
            if result.discarded[row]:
                self.replay.cut(i)
            else:
                obs = {name: value[row] for name, value in result.obs.items()}
                terminated, truncated = bool(result.terminated[row]), bool(result.truncated[row])
                self.replay.add(i, actions[i], float(result.reward[row]), terminated, truncated and not terminated, obs)
                self._return[i] += result.reward[row]
                self._length[i] += result.steps[row]
                for name, value in obs.items():
                    self._obs[name][i] = value
                if not (terminated or truncated):
                    continue
            finished.append((float(self._return[i]), int(self._length[i])))
            self._open[i] = False
        return int(result.steps[~result.dropped].sum()), finished

    def _wandering(self, actions: np.ndarray) -> np.ndarray:
        """What is done (n, A): the agent's actions, or what is being repeated instead."""
        count = len(actions)
        begins = (self._left == 0) & (self.rng.random(count) < self._wander)
        steps = self.rng.geometric(1 / self._stretch, count)
        repeated, repeats = self._repeating(begins, random_actions(self.envs.action_spec, count, self.rng), steps)
        return np.where(repeats[:, None], repeated, actions)

    def _repeating(self, begins: np.ndarray, drawn: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of what is repeated (n, A), and where anything is (n,); `drawn` begins, for `steps`, at `begins`."""
        self._left[begins] = steps[begins]
        self._repeated[begins] = drawn[begins]
        repeats = self._left > 0
        self._left[repeats] -= 1
        return self._repeated.copy(), repeats

    def cut(self) -> None:
        """End every open episode here, as truncated: for tasks whose episodes never end."""
        for i in np.flatnonzero(self._open).tolist():
            self.replay.cut(i)
        self._open[:] = False

    def state(self) -> State:
        """How many episodes each stream has begun. Only at a barrier."""
        if not self.idle:
            raise CheckpointError("the collector can be saved only where no episode is open")
        return {"tensors": {}, "json": {"episodes": list(self.episodes)}}

    def restore(self, state: State) -> None:
        """Go on after that many episodes."""
        episodes = state["json"]["episodes"]
        if len(episodes) != self.envs.num_envs:
            raise CheckpointError(f"collector state is of {len(episodes)} environments, expected {self.envs.num_envs}")
        self.episodes = list(episodes)

    def _begin(self) -> None:
        """Reset every environment that waits, unless a barrier is near."""
        waiting = [] if self.draining else np.flatnonzero(~self._open).tolist()
        if not waiting:
            return
        seeds = [episode_seed(self.seed, self.first_stream + i, self.episodes[i]) for i in waiting]
        obs = self.envs.reset(waiting, seeds)
        if not self._obs:
            self._obs = {name: np.zeros((self.envs.num_envs, *v.shape[1:]), v.dtype) for name, v in obs.items()}
        for row, i in enumerate(waiting):
            for name, value in obs.items():
                self._obs[name][i] = value[row]
            self.replay.begin(i, {name: value[row] for name, value in obs.items()})
            self.episodes[i] += 1
        self._open[waiting] = self._first[waiting] = True
        self._return[waiting] = self._length[waiting] = 0
        self._left[waiting] = 0
