"""The settings of the baselines, as plain data that is recorded with every run.

They are those of RL Baselines3 Zoo (Raffin 2020, https://github.com/DLR-RM/rl-baselines3-zoo), `hyperparams/ppo.yml`
(CartPole-v1, at commit 208b6fd), `sac.yml` (Pendulum-v1) and `ppo_lstm.yml` (CartPoleNoVel-v1, marked as tuned, both
at commit c94924e). The zoo has none for DeepMind Control: there SAC takes the library's defaults. What is not named
here is the library's default.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """One algorithm of Stable-Baselines3 or sb3-contrib and what it is given.

    normalize: running normalisation of observations and rewards. arguments: of the algorithm's constructor; `lin_X`
    falls linearly from X to 0 over the budget.
    """

    algorithm: str
    policy: str = "MlpPolicy"
    num_envs: int = 1
    normalize: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


_PPO_CARTPOLE = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": "lin_0.001",
    "clip_range": "lin_0.2",
}

SETTINGS = {
    "ppo-cartpole": BaselineSettings(algorithm="PPO", num_envs=8, arguments=_PPO_CARTPOLE),
    "sac-pendulum": BaselineSettings(algorithm="SAC", arguments={"learning_rate": 1e-3}),
    "recurrent-ppo-cartpole-no-velocity": BaselineSettings(
        algorithm="RecurrentPPO",
        policy="MlpLstmPolicy",
        num_envs=8,
        normalize=True,
        arguments=_PPO_CARTPOLE
        | {
            "policy_kwargs": {
                "ortho_init": False,
                "activation_fn": "ReLU",
                "lstm_hidden_size": 64,
                "enable_critic_lstm": True,
                "net_arch": {"pi": [64], "vf": [64]},
            }
        },
    ),
    "sac-defaults": BaselineSettings(algorithm="SAC"),
}
"""Name -> settings; a task names one of them."""
