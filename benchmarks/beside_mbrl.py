"""W5 of `benchmarks.planning` in mbrl-lib, where it is installed: `pip install mbrl`. It is no dependency of ours."""

from collections.abc import Callable
from importlib import import_module

import gymnasium
import numpy as np
import torch
from omegaconf import OmegaConf

from worldmodels.errors import ConfigError

MEMBERS, LAYERS, UNITS = 7, 4, 200
CANDIDATES, PARTICLES, STEPS, ITERATIONS = 350, 20, 15, 5


def plan(observation: int = 4, action: int = 1) -> Callable[[], object]:
    """One plan at the sizes of W5: its own ensemble (a member drawn anew at each step), model environment and CEM.

    Raises: ConfigError: mbrl-lib is not installed.
    """
    try:
        models, planning = import_module("mbrl.models"), import_module("mbrl.planning")
    except ModuleNotFoundError as error:
        raise ConfigError(f"--beside-mbrl needs mbrl-lib ({error}): pip install mbrl") from error
    network = models.GaussianMLP(
        observation + action,
        observation,
        "cpu",
        num_layers=LAYERS,
        ensemble_size=MEMBERS,
        hid_size=UNITS,
        propagation_method="random_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = models.OneDTransitionRewardModel(network, target_is_delta=True, normalize=False, learned_rewards=False)
    box = gymnasium.spaces.Box(-1.0, 1.0, (action,), np.float32)
    world = gymnasium.Env()
    world.observation_space, world.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation,)), box

    def never(_: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(obs), 1, dtype=torch.bool)

    def reward(_: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return -obs[:, -1:].square()

    dreams = models.ModelEnv(world, model, never, reward, generator=torch.Generator())
    optimizer = OmegaConf.create(
        {
            "_target_": "mbrl.planning.CEMOptimizer",
            "num_iterations": ITERATIONS,
            "elite_ratio": 0.1,
            "population_size": CANDIDATES,
            "alpha": 0.1,
            "device": "cpu",
        }
    )
    search = planning.TrajectoryOptimizer(optimizer, box.low, box.high, STEPS)
    start = np.random.default_rng(0).normal(size=observation)
    return lambda: search.optimize(lambda plans: dreams.evaluate_action_sequences(plans, start, PARTICLES))
