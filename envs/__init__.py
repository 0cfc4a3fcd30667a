"""The gymnasium side: environments made, checked, and stepped. Names load lazily; importing this package is fast."""

import importlib
from typing import Any

_WHERE = {
    "EnvOptions": "envs.options",
    "Guard": "envs.guard",
    "StepResult": "envs.vector",
    "VectorEnv": "envs.vector",
    "action_spec": "envs.spaces",
    "decode_action": "envs.spaces",
    "encode_action": "envs.spaces",
    "encode_obs": "envs.spaces",
    "make_env": "envs.make",
    "obs_specs": "envs.spaces",
}

__all__ = list(_WHERE)  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
