"""The gymnasium side: environments made, checked, and stepped. Names load lazily: none of them costs what is not used.

Importing this package registers `worldmodels/Dream-v0`; making it loads the world model, and torch with it.
"""

import importlib
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from envs.dream import DreamEnv, DreamVectorEnv
    from envs.dream_sb3 import DreamVecEnv
    from envs.faults import SensorFault
    from envs.guard import Guard
    from envs.latent import LatentObservation, UncertaintyInfo
    from envs.make import make_env
    from envs.options import EnvOptions
    from envs.physics import ChangedPhysics
    from envs.spaces import action_spec, decode_action, encode_action, encode_obs, obs_specs
    from envs.vector import StepResult, VectorEnv
    from envs.wrappers import ActionRepeat, AtariScreen, FastRender, FrameStack, MaskVelocity

_FILES = {
    "envs.dream": ("DreamEnv", "DreamVectorEnv"),
    "envs.dream_sb3": ("DreamVecEnv",),
    "envs.faults": ("SensorFault",),
    "envs.guard": ("Guard",),
    "envs.latent": ("LatentObservation", "UncertaintyInfo"),
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
    "DreamEnv",
    "DreamVecEnv",
    "DreamVectorEnv",
    "EnvOptions",
    "FastRender",
    "FrameStack",
    "Guard",
    "LatentObservation",
    "MaskVelocity",
    "SensorFault",
    "StepResult",
    "UncertaintyInfo",
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


if "worldmodels/Dream-v0" not in gymnasium.registry:
    gymnasium.register(
        "worldmodels/Dream-v0", entry_point="envs.dream:DreamEnv", vector_entry_point="envs.dream:DreamVectorEnv"
    )
