"""Small world models and hand-made windows of every kind, for tests of contracts and of mathematics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from worldmodels.build import build_world_model
from worldmodels.options import (
    CategoricalOptions,
    EnsembleOptions,
    FlowOptions,
    GaussianOptions,
    HeadOptions,
    MarkovOptions,
    ObjectiveOptions,
    RecurrentOptions,
    StateSpaceOptions,
    TransformerOptions,
    TrunkOptions,
    WorldModelOptions,
)
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Batch
from worldmodels.world_model import WorldModel

VECTOR = {"obs": ObsSpec("vector", (3,))}
OBS = {
    "vector": VECTOR,
    "grey 10x10": {"obs": ObsSpec("image", (10, 10, 1))},
    "rgb 17x23": {"obs": ObsSpec("image", (17, 23, 3))},
    "rgb 64x64": {"obs": ObsSpec("image", (64, 64, 3))},
    "discrete": {"obs": ObsSpec("discrete", (), (5,))},
    "multi_discrete": {"obs": ObsSpec("multi_discrete", (2,), (3, 4))},
    "multi_binary": {"obs": ObsSpec("multi_binary", (4,))},
    "mixed": {
        "camera": ObsSpec("image", (10, 10, 3)),
        "body/joints": ObsSpec("vector", (2,)),
        "gear": ObsSpec("discrete", (), (3,)),
        "speed": ObsSpec("vector", (1,)),
        "lamps": ObsSpec("multi_binary", (2,)),
    },
}
ACTIONS = {
    "discrete": ActionSpec("discrete", (4,)),
    "multi_discrete": ActionSpec("multi_discrete", (2, 3)),
    "continuous": ActionSpec("continuous", (), 2),
}


def small_options(
    posterior: str = "gaussian", *, blocks: int = 1, core_layers: int = 0, **changes
) -> WorldModelOptions:
    """Options of a model with a few thousand parameters; `changes` are top-level fields."""
    options = WorldModelOptions(
        posterior=posterior,
        flow=FlowOptions(transforms=2, units=4, context=3),
        trunk=TrunkOptions(units=8, layers=1, depth=2),
        gaussian=GaussianOptions(size=4),
        categorical=CategoricalOptions(groups=2, classes=3),
        recurrent=RecurrentOptions(deter=8, hidden=8, blocks=blocks, core_layers=core_layers),
        state_space=StateSpaceOptions(deter=8, hidden=8, layers=2),
        transformer=TransformerOptions(width=8, hidden=8, layers=2, heads=2, window=4),
        markov=MarkovOptions(hidden=8),
        ensemble=EnsembleOptions(members=2, units=8),
        heads=HeadOptions(units=8, bins=21),
        objective=ObjectiveOptions(),
    )
    return replace(options, **changes)


def small_model(
    options: WorldModelOptions | None = None,
    obs: Mapping[str, ObsSpec] = VECTOR,
    action: ActionSpec = ACTIONS["discrete"],
    *,
    seed: int = 0,
    spread: float = 0.1,
) -> WorldModel:
    """A model whose parameters are all moved by `spread` times noise, so that no part of it is silent."""
    torch.manual_seed(seed)
    model = build_world_model(options or small_options(), obs, action)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model


def random_obs(specs: Mapping[str, ObsSpec], *lead: int) -> dict[str, Tensor]:
    """Observations (*lead, ...) of every kind, from torch's global generator."""
    obs = {}
    for name, spec in specs.items():
        shape = (*lead, *spec.shape)
        if spec.kind == "vector":
            obs[name] = torch.randn(shape)
        elif spec.kind == "image":
            obs[name] = torch.randint(256, shape, dtype=torch.uint8)
        elif spec.kind == "multi_binary":
            obs[name] = torch.randint(2, shape, dtype=torch.uint8)
        elif spec.kind == "discrete":
            obs[name] = torch.randint(spec.classes[0], shape)
        else:
            obs[name] = torch.stack([torch.randint(count, lead) for count in spec.classes], -1)
    return obs


def random_actions(spec: ActionSpec, *lead: int) -> Tensor:
    """Encoded actions (*lead, A)."""
    if spec.kind == "continuous":
        return torch.rand(*lead, spec.size) * 2 - 1
    blocks = [torch.nn.functional.one_hot(torch.randint(count, lead), count) for count in spec.classes]
    return torch.cat(blocks, -1).float()


def window(
    obs: Mapping[str, ObsSpec] = VECTOR,
    action: ActionSpec = ACTIONS["discrete"],
    *,
    steps: int = 6,
    ends: Sequence[int | None] = (None, 2),
    first: Sequence[bool] = (True, False),
    seed: int = 1,
) -> Batch:
    """Packed windows: row b begins an episode where `first[b]`, and its transition `ends[b]` does not exist.

    The transition before the end is terminated in even rows and truncated in odd ones.
    """
    torch.manual_seed(seed)
    batch = len(ends)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    terminated, truncated = torch.zeros_like(mask), torch.zeros_like(mask)
    is_first = torch.zeros(batch, steps + 1, dtype=torch.bool)
    is_first[:, 0] = torch.tensor(list(first))
    for row, end in enumerate(ends):
        if end is None:
            continue
        mask[row, end] = False
        is_first[row, end + 1] = True
        if end > 0:
            (truncated if row % 2 else terminated)[row, end - 1] = True
    return Batch(
        obs=random_obs(obs, batch, steps + 1),
        action=random_actions(action, batch, steps) * mask.unsqueeze(-1),
        reward=torch.randn(batch, steps) * mask,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        is_first=is_first,
        obs_mask=torch.ones(batch, steps + 1, dtype=torch.bool),
    )


def cut(batch: Batch, row: int, start: int, stop: int) -> Batch:
    """Observations start..stop of one row, and the transitions between them, as a window of their own."""
    steps, rows = slice(start, stop), slice(start, stop + 1)
    return Batch(
        obs={name: value[row : row + 1, rows] for name, value in batch.obs.items()},
        action=batch.action[row : row + 1, steps],
        reward=batch.reward[row : row + 1, steps],
        terminated=batch.terminated[row : row + 1, steps],
        truncated=batch.truncated[row : row + 1, steps],
        mask=batch.mask[row : row + 1, steps],
        is_first=batch.is_first[row : row + 1, rows],
        obs_mask=batch.obs_mask[row : row + 1, rows],
    )


def still(model: WorldModel) -> WorldModel:
    """The same model with samples that are modes: the same noise (none) whatever the order of the draws."""
    for family in (model.family, getattr(model.encoder, "family", model.family)):
        family.sample = family.mode  # type: ignore[method-assign]
    if hasattr(model.encoder, "noise"):
        model.encoder.noise = 0.0  # type: ignore[assignment]
    return model
