"""Data of others to a data folder that `data=FOLDER` learns from, and own runs to Minari data sets."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agents.data import encoded, episodes, write_data
from agents.experiment import recorded_options
from envs.episodes import RecordedEpisode, decode_episode
from envs.make import make_env
from envs.options import EnvOptions
from envs.spaces import ActionCodec, obs_specs
from worldmodels.errors import ConfigError
from worldmodels.saved import specs_to_json
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.states import State

FLAT = ("action", "reward", "terminated", "truncated")


class Border:
    """Observation and action space of one environment, and what the toolkit makes of them."""

    def __init__(self, obs_space: Any, action_space: Any) -> None:  # noqa: ANN401 - gymnasium's spaces
        self._spaces = (obs_space, action_space)
        self.obs_specs: dict[str, ObsSpec] = obs_specs(obs_space)
        self.action_spec: ActionSpec = ActionCodec(action_space).spec

    def spaces(self) -> tuple[Any, Any]:
        """Observation and action space."""
        return self._spaces

    def specs_state(self) -> State:
        """Sizes and kinds of observations and actions, as plain data."""
        return {"tensors": {}, "json": specs_to_json(self.obs_specs, self.action_spec)}


def border_of(env: str | EnvOptions) -> Border:
    """The spaces of an environment, given by id or options. Raises: EnvironmentFault: it cannot be made."""
    made = make_env(EnvOptions(id=env) if isinstance(env, str) else env)
    try:
        return Border(made.env.observation_space, made.env.action_space)
    finally:
        made.close()


def from_npz(file: str | Path, folder: str | Path, *, env: str | EnvOptions) -> Path:
    """Convert an .npz of episodes into a data folder; return it.

    The file holds `length` (E,), the steps of each episode, and the episodes one after another: `obs` with one row more
    than steps for each (`obs/NAME` where the space is a Dict), `action`, `reward`, `terminated`, `truncated`, in the
    environment's own units.

    Raises: ConfigError: an array is missing, of another length, or not of the environment's spaces.
    """
    border = border_of(env)
    return write_data(folder, encoded(_read_npz(Path(file), border), *border.spaces(), str(file)), border)


def from_replay_buffer(buffer: Any, folder: str | Path, *, scaled: bool = True) -> Path:  # noqa: ANN401
    """Convert a Stable-Baselines3 ReplayBuffer or DictReplayBuffer, the object, into a data folder; return it.

    scaled: whether the actions of a Box are in [-1, 1], as Stable-Baselines3's own algorithms store them; False where
    they are the environment's own. An episode that was still open ends as truncated.

    Raises: ConfigError: the buffer is empty or does not keep the last observation of an episode.
    """
    if getattr(buffer, "optimize_memory_usage", False):
        raise ConfigError(
            "this replay buffer was made with optimize_memory_usage=True and has lost the last observation of every "
            "episode: make it with optimize_memory_usage=False"
        )
    border = Border(buffer.observation_space, buffer.action_space)
    return write_data(folder, encoded(_read_buffer(buffer, border, scaled), *border.spaces(), "the buffer"), border)


def export(
    run: str | Path,
    dataset_id: str,
    *,
    author: str = "unknown",
    author_email: str = "unknown",
    code_permalink: str = "unknown",
) -> Any:  # noqa: ANN401 - minari.MinariDataset
    """Write the episodes of a run as a local Minari data set (`env/name-v0`); return it. Minari shows the other words.

    Raises: ConfigError: the run holds no whole episode, or the data set exists already. CheckpointError: no such run.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    options = recorded_options(run)
    border = border_of(options.env)
    obs_space, action_space = border.spaces()
    codec = ActionCodec(action_space)
    buffers = []
    for episode in episodes(str(run), border):
        if not episode["is_first"][0]:
            continue  # its beginning was pushed out of the replay
        recorded = decode_episode(obs_space, codec, episode)
        buffers.append(
            EpisodeBuffer(
                id=len(buffers),
                observations=recorded.observations,
                actions=recorded.actions,  # type: ignore[arg-type]
                rewards=recorded.rewards.tolist(),
                terminations=recorded.terminations.tolist(),
                truncations=recorded.truncations.tolist(),
            )
        )
    if not buffers:
        raise ConfigError(f"{run} holds no whole episode to export")
    if dataset_id in minari.list_local_datasets():
        raise ConfigError(f"there is a local Minari data set {dataset_id} already: choose another name or version")
    with warnings.catch_warnings():
        # Minari says twice that it was given no environment. It would make that, and a run may name any module, so none
        # is given, and these two remarks, not our users' to act on, are dropped in this one call. All others pass.
        for text in ("`eval_env` is set to None", "env_spec is None"):
            warnings.filterwarnings("ignore", message=text)
        return minari.create_dataset_from_buffers(
            dataset_id, buffers, observation_space=obs_space, action_space=action_space,
            algorithm_name=options.agent.name, author=author, author_email=author_email, code_permalink=code_permalink,
            description=f"episodes of {options.env.id}, recorded while training",
        )  # fmt: skip


def _read_npz(file: Path, border: Border) -> Iterator[RecordedEpisode]:
    names = list(border.obs_specs)
    keys = {name: "obs" if names == ["obs"] else f"obs/{name}" for name in names}
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError) as error:  # not an archive, or objects in it
        raise ConfigError(f"{file}: expected an .npz of plain arrays: {error}") from error
    missing = [key for key in ("length", *keys.values(), *FLAT) if key not in arrays]
    if missing:
        raise ConfigError(
            f"{file} has no {', '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}): "
            "see docs/offline.md for the arrays of an .npz"
        )
    lengths = arrays["length"]
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not (lengths > 0).all():
        raise ConfigError(f"{file}: length: expected whole numbers of at least 1, one for each episode")
    steps = int(lengths.sum())
    expected = dict.fromkeys(FLAT, steps) | dict.fromkeys(keys.values(), steps + len(lengths))
    for key, rows in expected.items():
        if len(arrays[key]) != rows:
            raise ConfigError(f"{file}: {key} has {len(arrays[key])} rows, the lengths ask for {rows}")
    ends = np.cumsum(lengths)
    for number, (end, n) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        rows = slice(end - n + number, end + number + 1)
        obs = {name: arrays[key][rows] for name, key in keys.items()}
        flat = [arrays[key][end - n : end] for key in FLAT]
        yield RecordedEpisode(obs["obs"] if names == ["obs"] else _nest(obs), *flat)


def _nest(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """`a/b` -> {a: {b: ...}}."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = nested
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return nested


def _read_buffer(buffer: Any, border: Border, scaled: bool) -> Iterator[RecordedEpisode]:  # noqa: ANN401, FBT001
    size = buffer.buffer_size if buffer.full else buffer.pos
    order = (np.arange(size) + (buffer.pos if buffer.full else 0)) % buffer.buffer_size
    done, timeout = buffer.dones[order] > 0, buffer.timeouts[order] > 0
    for env in range(buffer.n_envs):
        spaces = border.spaces()[0]
        obs, after = (_pick(part, order, env, spaces) for part in (buffer.observations, buffer.next_observations))
        actions = buffer.actions[order, env]
        if scaled and border.action_spec.kind == "continuous":
            low, high = border.spaces()[1].low, border.spaces()[1].high
            actions = low + 0.5 * (actions + 1.0) * (high - low)
        elif border.action_spec.kind == "discrete":
            actions = actions[:, 0]
        begin = 0
        for t in range(size):
            last = t == size - 1
            if not (done[t, env] or last or not _same(after, obs, t)):
                continue
            rows = slice(begin, t + 1)
            ended = np.zeros(t + 1 - begin, bool)
            ended[-1] = done[t, env] and not timeout[t, env]
            cut = np.zeros_like(ended)
            cut[-1] = not ended[-1]
            whole = _map(lambda a, b, rows=rows, t=t: np.concatenate([a[rows], b[t : t + 1]]), obs, after)
            yield RecordedEpisode(whole, actions[rows], buffer.rewards[order, env][rows], ended, cut)
            begin = t + 1


def _pick(part: Any, order: np.ndarray, env: int, space: Any) -> Any:  # noqa: ANN401
    """The rows of one environment, in the shapes of its space: a buffer stores single numbers as arrays of one."""
    if isinstance(part, dict):
        return {key: _pick(value, order, env, space[key]) for key, value in part.items()}
    return part[order, env].reshape(len(order), *(space.shape or ()))


def _map(function: Any, *parts: Any) -> Any:  # noqa: ANN401
    """Apply to arrays, or to each array of equal dicts of them."""
    if isinstance(parts[0], dict):
        return {key: function(*(part[key] for part in parts)) for key in parts[0]}
    return function(*parts)


def _same(after: Any, obs: Any, t: int) -> bool:  # noqa: ANN401
    """Whether what followed step t is what step t + 1 began with."""
    pairs = zip(after.values(), obs.values(), strict=True) if isinstance(after, dict) else [(after, obs)]
    return all(np.array_equal(a[t], b[t + 1]) for a, b in pairs)
