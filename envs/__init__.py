"""The gymnasium side: environments made, checked, and stepped. Names load lazily; importing this package is fast."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.guard import Guard
    from envs.make import make_env
    from envs.options import EnvOptions
    from envs.spaces import action_spec, decode_action, encode_action, encode_obs, obs_specs
    from envs.vector import StepResult, VectorEnv

__all__ = [
    "EnvOptions",
    "Guard",
    "StepResult",
    "VectorEnv",
    "action_spec",
    "decode_action",
    "encode_action",
    "encode_obs",
    "make_env",
    "obs_specs",
]

_FILES = {"EnvOptions": "options", "Guard": "guard", "StepResult": "vector", "VectorEnv": "vector", "make_env": "make"}
"""Name -> its file; the others are in `spaces`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"envs.{_FILES.get(name, 'spaces')}"), name)
