"""The gymnasium side: environments made, checked, and stepped. Names load lazily; importing this package is fast."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.faults import SensorFault
    from envs.guard import Guard
    from envs.make import make_env
    from envs.options import EnvOptions
    from envs.physics import ChangedPhysics
    from envs.spaces import action_spec, decode_action, encode_action, encode_obs, obs_specs
    from envs.vector import StepResult, VectorEnv
    from envs.wrappers import ActionRepeat, AtariScreen, FastRender, FrameStack, MaskVelocity

_FILES = {
    "envs.faults": ("SensorFault",),
    "envs.guard": ("Guard",),
    "envs.make": ("make_env",),
    "envs.options": ("EnvOptions",),
    "envs.physics": ("ChangedPhysics",),
    "envs.spaces": ("action_spec", "decode_action", "encode_action", "encode_obs", "obs_specs"),
    "envs.vector": ("StepResult", "VectorEnv"),
    "envs.wrappers": ("ActionRepeat", "AtariScreen", "FastRender", "FrameStack", "MaskVelocity"),
}
_PLACES = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "ActionRepeat",
    "AtariScreen",
    "ChangedPhysics",
    "EnvOptions",
    "FastRender",
    "FrameStack",
    "Guard",
    "MaskVelocity",
    "SensorFault",
    "StepResult",
    "VectorEnv",
    "action_spec",
    "decode_action",
    "encode_action",
    "encode_obs",
    "make_env",
    "obs_specs",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
