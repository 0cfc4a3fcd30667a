"""What each of many processes has for itself: its share of batch and replay, and its parts of a checkpoint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from safetensors.torch import load, save

from agents.options import TrainOptions
from agents.ranks import Ranks
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.states import State

OWN = ("replay_rng", "collect_rng", "random")
"""Parts of a checkpoint that every process has for itself."""
ALIKE = (
    "world_model",
    "policy",
    "bonus",
    "model_optimizer",
    "actor_optimizer",
    "critic_optimizer",
    "bonus_optimizer",
)
"""Parts that are the same in all of them, where a run has them."""
COUNT = "ranks"
"""The part that says how many processes a checkpoint is of; one process does without it."""


def share(options: TrainOptions, ranks: Ranks) -> TrainOptions:
    """The options of one of these processes: a part of the batch, of the imagined trajectories and of the replay.

    Raises: ConfigError: they cannot be divided by the number of processes, or the agent learns in one process only.
    """
    count = ranks.count
    if count == 1:
        return options
    if options.agent.name == "sb3" or options.agent.acquisition.name == "count":
        what = "agent=sb3" if options.agent.name == "sb3" else "agent.acquisition.name=count"
        raise ConfigError(f"{what} learns in one process and cannot be spread over {count}: start wm without torchrun")
    for key, value in (("replay.batch", options.replay.batch), ("agent.starts", options.agent.starts)):
        if value % count:
            raise ConfigError(f"{key}: expected a multiple of the {count} processes that share it, got {value}")
    replay = replace(options.replay, batch=options.replay.batch // count, capacity=options.replay.capacity // count)
    agent = replace(options.agent, starts=options.agent.starts // count)
    return replace(options, replay=replay, agent=agent, device=str(ranks.device))


def purpose(name: str, ranks: Ranks) -> str:
    """The name of a random generator's purpose in this process: the first has the names of a run alone."""
    return name if ranks.first else f"{name} of process {ranks.rank}"


def prefix(ranks: Ranks) -> str:
    """How the names of this process's replay segments begin."""
    return "" if ranks.count == 1 else f"rank{ranks.rank}-"


def join_parts(parts: Mapping[str, State], segments: Sequence[str], ranks: Ranks) -> tuple[dict[str, State], list[str]]:
    """In the first process the parts and segments of all; streams are numbered through, so that it is one replay.

    Raises: CheckpointError: parameters are not the same everywhere.
    """
    if ranks.count == 1:
        return dict(parts), list(segments)
    mine = {"streams": [parts[name]["json"] for name in ("replay", "collector")], "segments": list(segments)}
    plain = mine | {name: parts[name]["json"] for name in OWN} | {"hash": _hash(parts)}
    tensors = {f"{name} {key}": value for name in OWN for key, value in parts[name]["tensors"].items()}
    found = ranks.gather_bytes(save(tensors, {"json": json.dumps(plain)}))
    if not ranks.first:
        return dict(parts), list(segments)
    joined, names = dict(parts), []
    for rank, data in enumerate(found):
        plain = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["json"])
        if plain["hash"] != _hash(parts):
            raise CheckpointError(f"process {rank} has other parameters than process 0: nothing is saved")
        tensors = load(data)
        names += plain["segments"]
        for part, own in zip(("replay", "collector"), plain["streams"], strict=True):
            known = joined[part]["json"] if rank else dict.fromkeys(own, [])
            joined[part] = {"tensors": {}, "json": {key: [*known[key], *value] for key, value in own.items()}}
        for name in OWN if rank else ():
            own = {key.partition(" ")[2]: value for key, value in tensors.items() if key.startswith(f"{name} ")}
            joined[f"rank{rank}_{name}"] = {"tensors": own, "json": plain[name]}
    joined[COUNT] = {"tensors": {}, "json": ranks.count}
    return joined, names


def own_parts(parts: Mapping[str, State], segments: Sequence[str], ranks: Ranks) -> tuple[dict[str, State], list[str]]:
    """What `join_parts` joined, as this process had it.

    Raises: CheckpointError: the checkpoint is of another number of processes.
    """
    count = parts[COUNT]["json"] if COUNT in parts else 1
    if count != ranks.count:
        how = "wm without torchrun" if count == 1 else f"it by torchrun with {count} processes"
        raise CheckpointError(f"this run was trained by {count} processes, now there are {ranks.count}: start {how}")
    if count == 1:
        return dict(parts), list(segments)
    own = dict(parts)
    for part in ("replay", "collector"):
        lists = parts[part]["json"]
        streams = {key: len(value) // count for key, value in lists.items()}
        cut = {key: value[ranks.rank * streams[key] :][: streams[key]] for key, value in lists.items()}
        own[part] = {"tensors": {}, "json": cut}
    if not ranks.first:
        own |= {name: parts[f"rank{ranks.rank}_{name}"] for name in OWN}
    return own, [name for name in segments if name.startswith(prefix(ranks))]


def _hash(parts: Mapping[str, State]) -> str:
    digest = hashlib.sha256()
    for part in (name for name in ALIKE if name in parts):
        for name, tensor in sorted(parts[part]["tensors"].items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
