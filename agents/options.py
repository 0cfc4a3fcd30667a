"""The typed options of a whole run: every key that a configuration may set, with its range. No torch here."""

from dataclasses import dataclass, field
from typing import Any, Literal

from envs.options import EnvOptions
from worldmodels.options import WorldModelOptions


def _at_least(default: float, minimum: float) -> Any:  # noqa: ANN401 - a dataclass field stands for its type
    return field(default=default, metadata={"min": minimum})


def _above(default: float, bound: float) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"above": bound})


def _between(default: float, minimum: float, maximum: float) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"min": minimum, "max": maximum})


@dataclass(frozen=True, kw_only=True)
class PlannerOptions:
    """How `agent=planner` and `agent=planner_actor` search for a plan at every step.

    search: `icem`, `cem`, `mppi` or `gradient`. horizon: actions of a plan. samples: candidates of an iteration.
    iterations: how often they are drawn and fitted, or steps of the gradient. elites: candidates that are fitted to.
    kept: best ones that stay for the next iteration and the next step (icem, gradient). exponent: of the noise's
    power spectrum over the horizon, 0 for white (icem). decay: fewer candidates with each iteration (icem). momentum:
    share of the old belief that a fit keeps. temperature: of the weights, in units of the return (mppi). rate: of the
    gradient. std, min_std: of the first belief, and below which no fit goes. particles: imagined rollouts of each
    candidate, with noise of their own; 0: one, or one for each member, along the means of Gaussian latents, so that
    chance ranks no candidate (one-hots are drawn all the same). members: whether rollouts follow the temporal prior
    (`none`), one member of the ensemble to their end (`rollout`, TS-infinity) or another one at each step (`step`,
    TS1). noise: of actions while collecting, a standard deviation or the chance of a uniform action. proposals:
    candidates that the learned policy adds (planner_actor).
    """

    search: Literal["icem", "cem", "mppi", "gradient"] = "icem"
    horizon: int = _at_least(20, 1)
    samples: int = _at_least(100, 2)
    iterations: int = _at_least(3, 1)
    elites: int = _at_least(10, 1)
    kept: int = _at_least(3, 0)
    exponent: float = _between(2.0, 0.0, 10.0)
    decay: float = _at_least(1.25, 1.0)
    momentum: float = _between(0.1, 0.0, 1.0)
    temperature: float = _above(0.5, 0.0)
    rate: float = _above(0.1, 0.0)
    std: float = _above(0.7, 0.0)
    min_std: float = _above(0.05, 0.0)
    particles: int = _at_least(0, 0)
    members: Literal["none", "rollout", "step"] = "none"
    noise: float = _between(0.1, 0.0, 1.0)
    proposals: int = _at_least(8, 0)


@dataclass(frozen=True, kw_only=True)
class Sb3Options:
    """How `agent=sb3` trains an algorithm of Stable-Baselines3 in the dream, with that library's other defaults.

    algorithm: PPO, A2C (any action), DQN (discrete ones), SAC, TD3 (continuous ones). every: updates of the world model
    between its sessions. steps: imagined steps of a session. num_envs: dreams that step together. horizon: imagined
    steps after which a dream is cut and its value estimated. gamma: discount per step. rate: learning rate. hidden,
    layers: size of its networks. batch: imagined steps of a minibatch. epochs: passes over a session (PPO).
    gradient_steps: of a session (DQN, SAC, TD3). memory: imagined steps kept to learn from, until the next checkpoint
    (the same three). entropy: weight of the policy's entropy (PPO, A2C). tau: how fast target networks follow (DQN,
    SAC, TD3). exploration: while collecting, the chance of a uniform action (DQN) or the standard deviation of noise
    (TD3).
    """

    algorithm: Literal["PPO", "A2C", "DQN", "SAC", "TD3"] = "PPO"
    every: int = _at_least(5, 1)
    steps: int = _at_least(1024, 1)
    num_envs: int = _between(64, 1, 65_536)
    horizon: int = _at_least(16, 1)
    gamma: float = _between(0.99, 0.0, 1.0)
    rate: float = _above(1e-3, 0.0)
    hidden: int = _at_least(64, 1)
    layers: int = _at_least(2, 1)
    batch: int = _at_least(256, 2)
    epochs: int = _at_least(4, 1)
    gradient_steps: int = _at_least(10, 1)
    memory: int = _at_least(20_000, 1)
    entropy: float = _at_least(1e-3, 0.0)
    tau: float = _between(0.01, 0.0, 1.0)
    exploration: float = _between(0.1, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class AcquisitionOptions:
    """A score of every imagined step that becomes part of its reward: docs/acquisition.md says which one when.

    name: `none`, `information_gain`, `disagreement`, `sigma`, `jensen_renyi`, `task_aware`, `surprise`,
    `prediction_error`, `rnd`, `count`, `random_network`, or one that was registered. weight: of the score: plus
    explores, minus is pessimism. reward: weight of the environment's reward beside it (0: curiosity alone).
    normalize: divide scores by their running standard deviation. center: subtract their running mean first. quantile:
    imagined steps that score above this quantile of real ones end a return (1: none do). rate: learning rate of an
    acquisition that learns. width: of the tube around good trajectories, in units of the latent, and task_horizon:
    their length where a policy is followed; a planner's are as long as its plans (`task_aware`).
    """

    name: str = "none"
    weight: float = 1.0
    reward: float = _at_least(1.0, 0.0)
    normalize: bool = True
    center: bool = False
    quantile: float = _between(1.0, 0.0, 1.0)
    rate: float = _above(1e-3, 0.0)
    width: float = _above(0.5, 0.0)
    task_horizon: int = _at_least(15, 1)


@dataclass(frozen=True, kw_only=True)
class ExplorerOptions:
    """How `agent=explorer` collects beside its policy, and what it does with its model at the end.

    wander: chance, at each step, that one random action is begun and repeated for a while in place of the policy's
    (Dabney et al. 2021). stretch: how many steps it is repeated in the mean. task_updates: updates of a new policy for
    the environment's reward, in the model alone, without further steps.
    """

    wander: float = _between(0.0, 0.0, 1.0)
    stretch: float = _at_least(8.0, 1.0)
    task_updates: int = _at_least(1_500, 0)


@dataclass(frozen=True, kw_only=True)
class ActorCriticOptions:
    """The policy that is trained in imagination.

    name: `actor_critic` acts by that policy alone, `planner` plans and trains no policy, `planner_actor` plans with the
    policy's proposals and its critic at the end of each plan, `sb3` trains an algorithm of Stable-Baselines3 in the
    dream instead, `explorer` collects with a policy for `acquisition` and at the end trains one for the task, `cloning`
    imitates the data. planner, sb3, explorer: their own settings. acquisition: becomes part of the imagined reward.
    horizon: imagined steps. along_means: imagine the mean of each next latent (of one-hots the mode) instead of drawing
    it, where the world has no chance of its own and the width of the model is not to be taken for it. starts: imagined
    trajectories per update. gamma: discount per step. lambda_: mixing of
    n-step returns. entropy: weight of the policy's entropy (nats). actor_rate, critic_rate: learning rates.
    slow_critic: fraction by which the slow critic follows the critic each update. hidden, layers: size of both
    networks. gradient: `score` (likelihood ratio), `dynamics` (through the model) or `auto` (score for discrete
    actions, dynamics for continuous ones). actor_average: fraction by which the averaged actor, which acts in
    evaluation, follows the actor. return_rate: fraction by which the return's scale follows each batch.
    critic: `scalar` (squared error in units of the value that steady rewards would have) or `two_hot` (for returns of
    many magnitudes). bins, limit: number of bins of the two-hot critic and symlog of the outermost. clip: largest
    norm of a gradient. norm: layer normalisation in both networks.
    """

    name: Literal["actor_critic", "planner", "planner_actor", "sb3", "explorer", "cloning"] = "actor_critic"
    horizon: int = _at_least(15, 1)
    along_means: bool = False
    starts: int = _at_least(128, 1)
    gamma: float = _between(0.99, 0.0, 1.0)
    lambda_: float = _between(0.95, 0.0, 1.0)
    entropy: float = _at_least(1e-3, 0.0)
    actor_rate: float = _above(1e-3, 0.0)
    critic_rate: float = _above(3e-3, 0.0)
    slow_critic: float = _between(0.05, 0.0, 1.0)
    hidden: int = _at_least(64, 1)
    layers: int = _at_least(2, 1)
    norm: bool = False
    gradient: Literal["auto", "score", "dynamics"] = "auto"
    actor_average: float = _between(0.02, 0.0, 1.0)
    return_rate: float = _between(0.01, 0.0, 1.0)
    critic: Literal["scalar", "two_hot"] = "scalar"
    bins: int = _between(127, 3, 4095)
    limit: float = _between(20.0, 0.1, 20.0)
    clip: float = _above(100.0, 0.0)
    planner: PlannerOptions = field(default_factory=PlannerOptions)
    sb3: Sb3Options = field(default_factory=Sb3Options)
    acquisition: AcquisitionOptions = field(default_factory=AcquisitionOptions)
    explorer: ExplorerOptions = field(default_factory=ExplorerOptions)


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What is remembered and how it is sampled.

    capacity: rows kept (one observation and the transition that leaves it). batch: windows in a batch.
    length: transitions in a window.
    """

    capacity: int = _at_least(100_000, 2)
    batch: int = _at_least(16, 1)
    length: int = _at_least(32, 1)


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """How often and how fast the world model and the policy learn.

    warmup_steps: simulator steps of random actions before learning. warmup_hold: actions in a row for which each of
    them is kept: what changes at every step moves nothing heavy. warmup_updates: world-model updates at the end of the
    warm-up. updates_per_step: updates for each simulator step afterwards. full_rate_steps: simulator step after
    which updates become rarer as 1 / step and all learning rates fall as 1 / sqrt(step). every: simulator steps between
    groups of updates. model_rate: learning rate of the world model. clip: largest norm of its gradient. threads: torch
    threads on the CPU. precision: of matrix products; parameters, statistics and losses are float32 always. `auto` is
    bfloat16 where the machine multiplies it faster and the model is large enough to gain. compile: the imagined step is
    compiled; it pays in long runs of wide models (docs/performance.md). checkpoint_every: simulator steps between
    checkpoints. keep: checkpoints kept.
    max_skipped_updates: updates in a row that may be skipped for a non-finite loss or gradient before the run stops.
    log_every: simulator steps between lines of training metrics.
    """

    warmup_steps: int = _at_least(500, 1)
    warmup_hold: int = _at_least(1, 1)
    warmup_updates: int = _at_least(200, 0)
    updates_per_step: float = _at_least(0.5, 0.0)
    full_rate_steps: int = _at_least(2000, 1)
    every: int = _at_least(10, 1)
    model_rate: float = _above(3e-3, 0.0)
    clip: float = _above(100.0, 0.0)
    threads: int = _at_least(1, 1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    checkpoint_every: int = _at_least(5000, 1)
    keep: int = _at_least(2, 1)
    max_skipped_updates: int = _at_least(10, 1)
    log_every: int = _at_least(250, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How the agent is measured while it trains; none of it changes the training.

    every: simulator steps between evaluations (0: only at the end). episodes: episodes of each. final_episodes:
    episodes of the last one. num_envs: environments stepped together. seed: episode k is reset with seed + k.
    """

    every: int = _at_least(1000, 0)
    episodes: int = _at_least(20, 1)
    final_episodes: int = _at_least(100, 1)
    num_envs: int = _at_least(20, 1)
    seed: int = _between(10_000, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A whole training run.

    steps: simulator steps, action repeat included. seed: of everything that is random. device: `cpu`, `cuda`,
    `cuda:N` or `mps`. run: the run folder (none: named after environment, seed and time). resume: go on with what is
    there. data: a run folder, a data folder or `minari:ID` whose episodes are learned from instead of collecting any;
    each of `steps` then earns the updates that a collected step would have earned. online_steps: simulator steps that
    are collected after those, with data alone.
    """

    env: EnvOptions = field(default_factory=EnvOptions)
    world_model: WorldModelOptions = field(default_factory=WorldModelOptions)
    agent: ActorCriticOptions = field(default_factory=ActorCriticOptions)
    replay: ReplayOptions = field(default_factory=ReplayOptions)
    train: LearnerOptions = field(default_factory=LearnerOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    steps: int = _at_least(5_000, 1)
    seed: int = _between(0, 0, 2**31 - 1)
    device: str = "cpu"
    run: str | None = None
    resume: bool = False
    data: str | None = None
    online_steps: int = _at_least(0, 0)

    @property
    def all_steps(self) -> int:
        """Steps of the whole run, those from data and those collected."""
        return self.steps + self.online_steps
