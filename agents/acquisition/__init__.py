"""Acquisition: what to look at, do or ask next."""

from agents.acquisition.adversarial import variational_adversarial
from agents.acquisition.bonus import Bonus, build_acquisition, build_bonus, register_acquisition
from agents.acquisition.bootstrap import BootstrapClassifier
from agents.acquisition.learned import (
    Count,
    Expected,
    Observed,
    RandomNetwork,
    RandomNetworkDistillation,
    observe,
)
from agents.acquisition.pool import (
    Selection,
    bald,
    batch_bald,
    core_set,
    epig,
    predictive_entropy,
    random_batch,
    top,
)
from agents.acquisition.queries import (
    Synthesised,
    information_batch,
    reward_queries,
    synthesise,
    transition_queries,
)
from agents.acquisition.scores import (
    disagreement,
    information_gain,
    jensen_renyi,
    pessimism,
    sigma,
    upper_confidence,
)
from agents.acquisition.task import TaskAware, led_rollouts, member_returns, member_rollouts, return_difference

__all__ = [
    "Bonus",
    "BootstrapClassifier",
    "Count",
    "Expected",
    "Observed",
    "RandomNetwork",
    "RandomNetworkDistillation",
    "Selection",
    "Synthesised",
    "TaskAware",
    "bald",
    "batch_bald",
    "build_acquisition",
    "build_bonus",
    "core_set",
    "disagreement",
    "epig",
    "information_batch",
    "information_gain",
    "jensen_renyi",
    "led_rollouts",
    "member_returns",
    "member_rollouts",
    "observe",
    "pessimism",
    "predictive_entropy",
    "random_batch",
    "register_acquisition",
    "return_difference",
    "reward_queries",
    "sigma",
    "synthesise",
    "top",
    "transition_queries",
    "upper_confidence",
    "variational_adversarial",
]
