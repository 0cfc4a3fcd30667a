"""What a run folder holds, without the agent: its world model and its replay. Opening executes nothing from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldmodels.build import build_world_model
from worldmodels.checkpoint import Checkpoint, load, restore_module
from worldmodels.config import build, load_yaml
from worldmodels.errors import CheckpointError
from worldmodels.options import WorldModelOptions
from worldmodels.replay import Replay
from worldmodels.run_folder import SEGMENTS
from worldmodels.seeding import forked
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.world_model import WorldModel

ACTING = "acting"
"""Name of the checkpoint part that holds the agent that is kept: the best by its evaluations."""
CONFIG_FILE = "config.yaml"


def load_world_model(run: str | Path, *, device: str = "cpu") -> WorldModel:
    """The world model of a run folder: that of the agent that is kept, or the newest where none was kept yet.

    Raises: CheckpointError: no run, or no sound checkpoint.
    """
    file = Path(run).expanduser() / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{run}: not a run folder, it has no {CONFIG_FILE}")
    options = build(WorldModelOptions, load_yaml(file).get("world_model", {}), path="world_model")
    parts = load(file.parent, segments=False).parts
    with forked(0):
        model = build_world_model(options, *specs_from_json(parts["specs"]["json"]))
    kept = parts[ACTING]["tensors"]
    own = {k.removeprefix("world_model."): v for k, v in kept.items() if k.startswith("world_model.")}
    restore_module(model, {"tensors": own, "json": None} if own else parts["world_model"])
    return model.to(device)


def load_replay(run: str | Path) -> Replay:
    """The replay of a run folder, as it was at the newest sound checkpoint.

    Raises: CheckpointError: no run, no sound checkpoint, or one that was saved without experience.
    """
    run = Path(run).expanduser()
    replay = replay_of(run, load(run))
    if len(replay) == 0:
        raise CheckpointError(f"{run} holds no experience: it was stopped before its first episode ended")
    return replay


def replay_of(run: Path, checkpoint: Checkpoint) -> Replay:
    """The replay that belongs to a checkpoint of a run folder, no larger than what it holds.

    Raises: CheckpointError: the checkpoint was saved without experience, or a segment is damaged.
    """
    state = checkpoint.parts.get("replay")
    if state is None:
        raise CheckpointError(f"{run} holds no experience: it was saved to act")
    obs_specs, action_spec = specs_from_json(checkpoint.parts["specs"]["json"])
    written, oldest = state["json"]["written"], state["json"]["oldest"]
    longest = max(new - old for new, old in zip(written, oldest, strict=True))
    replay = Replay(obs_specs, action_spec.size, capacity=max(2, longest) * len(written), streams=len(written))
    replay.restore(state)
    replay.load_segments(run / SEGMENTS, checkpoint.segments)
    return replay


def specs_from_json(plain: Mapping[str, Any]) -> tuple[dict[str, ObsSpec], ActionSpec]:
    """Observations and actions of a run from the plain data of its checkpoint."""
    obs = {
        name: ObsSpec(spec["kind"], tuple(spec["shape"]), tuple(spec["classes"])) for name, spec in plain["obs"].items()
    }
    action = plain["action"]
    return obs, ActionSpec(action["kind"], tuple(action["classes"]), action["dimensions"])


def specs_to_json(obs_specs: Mapping[str, ObsSpec], action_spec: ActionSpec) -> dict[str, Any]:
    """The inverse of `specs_from_json`."""
    obs = {
        name: {"kind": spec.kind, "shape": list(spec.shape), "classes": list(spec.classes)}
        for name, spec in obs_specs.items()
    }
    plain = {"kind": action_spec.kind, "classes": list(action_spec.classes), "dimensions": action_spec.dimensions}
    return {"obs": obs, "action": plain}
