"""Policies of Stable-Baselines3 without pickle: `export(model, path)`, and `load_policy(path)` to act and be measured.

A folder holds `policy.json`, which says what to build, and `policy.safetensors`. Names in it are looked up in the
tables of this file: nothing is imported, called or unpickled that a file names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors.torch import load as unpack_tensors
from safetensors.torch import save as pack_tensors
from stable_baselines3.common import policies, torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import nn

from envs.spaces import ActionCodec, obs_leaves, obs_specs
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.files import read_file, write_error, write_file
from worldmodels.seeding import forked
from worldmodels.states import module_state, restore_module
from worldmodels.tensorfile import check_header, parse_json

FORMAT = "worldmodels-sb3-policy-1"
SETTINGS, WEIGHTS = "policy.json", "policy.safetensors"
LIMIT = 2**32
"""Bytes of weights that are read at most."""
POLICIES: dict[str, type] = {
    f"{cls.__module__}.{cls.__qualname__}": cls
    for cls in (
        *(policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy, policies.MultiInputActorCriticPolicy),
        *(dqn.DQNPolicy, dqn.CnnPolicy, dqn.MultiInputPolicy),
        *(sac.SACPolicy, sac.CnnPolicy, sac.MultiInputPolicy),
        *(td3.TD3Policy, td3.CnnPolicy, td3.MultiInputPolicy),
    )
}
CLASSES: dict[str, dict[str, type]] = {
    "activation_fn": {c.__name__: c for c in (nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid)},
    "features_extractor_class": {
        c.__name__: c for c in (torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor)
    },
    "optimizer_class": {c.__name__: c for c in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)},
}
"""Arguments of a policy that are classes, and the classes that they may be."""
DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64")


def export(model: BaseAlgorithm, path: str | Path) -> Path:
    """Write the policy of a trained model, with the observation statistics of its VecNormalize, into a new folder.

    `wm evaluate PATH` and `load_policy` open it. It acts; it does not train on.

    Raises: ConfigError: a policy, layer or space that is not of Stable-Baselines3's own. CheckpointError: the folder
        holds something already or cannot be written.
    """
    path = Path(path)
    tensors = {f"policy.{name}": value for name, value in module_state(model.policy)["tensors"].items()}
    settings: dict[str, Any] = {
        "format": FORMAT,
        "policy": _policy_name(model.policy),
        "arguments": _arguments(model.policy),
        "observation_space": _space_to_json(model.policy.observation_space),
        "action_space": _space_to_json(model.policy.action_space),
        "steps": int(model.num_timesteps),
        "env": _env_id(model),
    }
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_obs:
        if isinstance(normalizer.obs_rms, dict):
            raise ConfigError("export: VecNormalize of a Dict observation cannot be exported; train on one Box")
        tensors["normalize.mean"] = torch.from_numpy(np.array(normalizer.obs_rms.mean))
        tensors["normalize.var"] = torch.from_numpy(np.array(normalizer.obs_rms.var))
        settings["normalize"] = {"clip": float(normalizer.clip_obs), "epsilon": float(normalizer.epsilon)}
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(f"{path} exists already: choose another folder")
    weights = pack_tensors(tensors)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_file(path, WEIGHTS, weights)
        write_file(path, SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    except OSError as error:
        raise write_error(error, path, len(weights)) from error
    return path


def load_policy(path: str | Path, *, device: str = "cpu") -> "ExportedPolicy":
    """Rebuild an exported policy. Opening it executes nothing from it.

    Raises: CheckpointError: no such folder, or it is damaged. ConfigError: it names what this version does not know.
    """
    path = Path(path)
    settings = parse_json(read_file(path, SETTINGS, LIMIT), str(path / SETTINGS))
    data = read_file(path, WEIGHTS, LIMIT)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise CheckpointError(f"{path / SETTINGS} is not an exported policy of the format {FORMAT}")
    check_header(data, str(path / WEIGHTS))
    tensors = unpack_tensors(data)
    try:
        cls = POLICIES[settings["policy"]]
        arguments = {name: _from_json(name, value) for name, value in settings["arguments"].items()}
        observation, action = (_space_from_json(settings[f"{kind}_space"]) for kind in ("observation", "action"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path / SETTINGS} names what this version does not know: {error}") from error
    with forked(0):
        policy = cls(observation, action, lr_schedule=lambda _: 0.0, **arguments)
    own = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
    restore_module(policy, {"tensors": own, "json": None})
    policy.set_training_mode(False)
    return ExportedPolicy(policy.to(device), settings, {k: v for k, v in tensors.items() if k.startswith("normalize.")})


class ExportedPolicy:
    """An exported policy: `predict` as Stable-Baselines3 has it, and what `agents.evaluate.evaluate` asks of an agent.

    policy: the library's own object. env_id: where it was trained, None if that is not known. train_steps: its steps.
    """

    def __init__(self, policy: policies.BasePolicy, settings: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
        self.policy, self._statistics = policy, {name: value.numpy() for name, value in statistics.items()}
        self._normalize = settings.get("normalize")
        self.env_id: str | None = settings.get("env")
        self.train_steps = int(settings["steps"])
        self.obs_specs, self._codec = obs_specs(policy.observation_space), ActionCodec(policy.action_space)
        self.action_spec = self._codec.spec
        self._leaves = obs_leaves(policy.observation_space)

    def predict(
        self,
        observation: Any,  # noqa: ANN401
        state: Any = None,  # noqa: ANN401
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,  # noqa: FBT001, FBT002 - Stable-Baselines3's signature
    ) -> tuple[np.ndarray, Any]:
        """Action for the environment's own observation, one or a batch, as `BasePolicy.predict`."""
        if self._normalize is not None:
            mean, var = self._statistics["normalize.mean"], self._statistics["normalize.var"]
            clip, epsilon = self._normalize["clip"], self._normalize["epsilon"]
            observation = np.clip((observation - mean) / np.sqrt(var + epsilon), -clip, clip).astype(np.float32)
        return self.policy.predict(observation, state, episode_start, deterministic=deterministic)

    def initial_carry(self, batch: int) -> None:  # noqa: ARG002
        """Nothing is remembered."""

    def act(
        self,
        obs: Mapping[str, np.ndarray],
        carry: Any,  # noqa: ANN401
        is_first: np.ndarray,  # noqa: ARG002
        *,
        deterministic: bool,
    ) -> tuple[np.ndarray, Any]:
        """Encoded actions (n, A) for encoded observations name -> (n, ...)."""
        rows = {leaf.name: _plain(leaf.space, obs[leaf.name]) for leaf in self._leaves}
        observation = (
            {str(leaf.path[0]): rows[leaf.name] for leaf in self._leaves} if self._leaves[0].path else rows["obs"]
        )
        actions, _ = self.predict(observation, deterministic=deterministic)
        return np.stack([self._codec.encode(action) for action in actions]), carry


def _plain(space: spaces.Space[Any], value: np.ndarray) -> np.ndarray:
    """Encoded observations (n, ...) -> as the space has them, (n, *shape)."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return value + np.asarray(space.start)
    shape = tuple(space.shape or ())
    if isinstance(space, spaces.Box) and len(shape) == 3 and value.shape[1:] != shape:  # channels first
        return np.moveaxis(value, -1, 1)
    return value.reshape(len(value), *shape).astype(space.dtype)


def _policy_name(policy: Any) -> str:  # noqa: ANN401
    name = f"{type(policy).__module__}.{type(policy).__qualname__}"
    if name not in POLICIES:
        raise ConfigError(f"export: {name} is not a policy of Stable-Baselines3's own: {', '.join(POLICIES)}")
    return name


def _arguments(policy: Any) -> dict[str, Any]:  # noqa: ANN401
    found = policy._get_constructor_parameters()
    plain = {k: v for k, v in found.items() if k not in ("observation_space", "action_space", "lr_schedule")}
    if plain.get("use_sde"):
        raise ConfigError("export: a policy with state-dependent exploration (use_sde) cannot be exported")
    if isinstance(policy, policies.ActorCriticPolicy):  # these go with use_sde alone
        plain = {k: v for k, v in plain.items() if k not in ("squash_output", "full_std", "use_expln")}
    for name, known in CLASSES.items():
        cls = plain.get(name)
        if cls is not None and known.get(cls.__name__) is not cls:
            raise ConfigError(f"export: {name} is {cls.__name__}, expected one of {', '.join(known)}")
        plain[name] = cls.__name__ if cls is not None else None
    try:
        return json.loads(json.dumps(plain))
    except TypeError as error:
        raise ConfigError(f"export: the policy was made with arguments that are not plain data: {error}") from error


def _from_json(name: str, value: Any) -> Any:  # noqa: ANN401
    return CLASSES[name][value] if name in CLASSES and value is not None else value


def _env_id(model: BaseAlgorithm) -> str | None:
    env = model.get_env()
    if env is None or not env.has_attr("spec"):
        return None
    spec = env.get_attr("spec")[0]
    return None if spec is None else str(spec.id)


def _space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {name: _space_to_json(inner) for name, inner in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        ends = {name: _short(bound) for name, bound in (("low", space.low), ("high", space.high))}
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype)} | ends
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    raise ConfigError(f"export: the space {space} is not supported")


def _space_from_json(plain: Mapping[str, Any]) -> spaces.Space[Any]:
    if plain["kind"] == "Dict":
        return spaces.Dict({name: _space_from_json(inner) for name, inner in plain["spaces"].items()})
    if plain["kind"] == "Box":
        shape, dtype = tuple(plain["shape"]), DTYPES[DTYPES.index(plain["dtype"])]
        low, high = (np.broadcast_to(np.array(plain[n], dtype), np.prod(shape, dtype=int)) for n in ("low", "high"))
        return spaces.Box(low.reshape(shape).copy(), high.reshape(shape).copy(), shape, np.dtype(dtype).type)
    if plain["kind"] == "Discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if plain["kind"] == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(plain["nvec"]), start=np.array(plain["start"]))
    if plain["kind"] == "MultiBinary":
        return spaces.MultiBinary(plain["shape"])
    raise ValueError(f"space {plain['kind']!r}")


def _short(bound: np.ndarray) -> Any:  # noqa: ANN401
    """One number where all are equal, else the flat list."""
    flat = bound.reshape(-1)
    return flat[0].item() if flat.size and (flat == flat[0]).all() else flat.tolist()
