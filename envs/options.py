"""The options of one environment, as configuration files and the command line give them. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """Which environment, what is observed of it, and how many copies run where.

    id: a gymnasium id; `module:Name-v0` imports the module first.
    kwargs: passed to `gymnasium.make`.
    obs: `state` takes the environment's own observation; `pixels` takes images of image_size x image_size: the
        environment's own where its observation is an image, rendered frames elsewhere.
    image_size, grayscale: of `pixels` only.
    frame_stack: the last n observations joined along their last axis (image channels, or features).
    action_repeat: simulator steps of one action; rewards are summed.
    max_episode_steps: time limit in simulator steps; None keeps the one the id was registered with.
    wrappers: names from `envs.wrappers.WRAPPERS`, applied innermost first.
    num_envs: copies that collect.
    workers: 0 runs every copy in this process, otherwise every copy has a process of its own.
    timeout_s: seconds after which a silent worker counts as hung.
    non_finite: what NaN or infinity from the environment does: `error` stops, `truncate` ends the episode and
        discards that step.
    strict: a value outside the declared space is an error instead of one warning.
    restarts: how often each failing copy is rebuilt; its open episode is dropped.
    """

    id: str = "CartPole-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)
    obs: Literal["state", "pixels"] = "state"
    image_size: int = field(default=64, metadata={"min": 16, "max": 128})
    grayscale: bool = False
    frame_stack: int = field(default=1, metadata={"min": 1, "max": 16})
    action_repeat: int = field(default=1, metadata={"min": 1, "max": 64})
    max_episode_steps: int | None = field(default=None, metadata={"min": 1})
    wrappers: list[str] = field(default_factory=list)
    num_envs: int = field(default=1, metadata={"min": 1, "max": 1024})
    workers: int = field(default=0, metadata={"min": 0, "max": 1024})
    timeout_s: float = field(default=30.0, metadata={"min": 0.1})
    non_finite: Literal["error", "truncate"] = "error"
    strict: bool = False
    restarts: int = field(default=0, metadata={"min": 0})
