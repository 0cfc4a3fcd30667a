"""Watching single observations arrive: how far each is from what the model expected, and from what is nominal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldmodels.replay import Replay
from worldmodels.seeding import generator
from worldmodels.types import State
from worldmodels.uncertainty import p_value
from worldmodels.world_model import WorldModel

SETTLED = 4
"""Steps after which a state that began inside an episode counts as nominal."""


class Sight(NamedTuple):
    """One observation against what was expected of it.

    surprise: (B,) nats, KL(q || p) of the posterior to the temporal prior, or -log p(o | past) of a bijection.
    epistemic: (B,) nats, what the ensemble did not know before the step; None without one. residual: (B, n), distance
    of every number of the vector observations from the expected one, standardised. expected: name -> (B, ...), the
    vector observations that were expected.
    """

    surprise: Tensor
    epistemic: Tensor | None
    residual: Tensor
    expected: dict[str, Tensor]


@torch.no_grad()
def look(model: WorldModel, state: State, action: Tensor, obs: Mapping[str, Tensor]) -> Sight:
    """Compare `obs` (B, ...), reached from `state` (B, ...) by `action` (B, A), with the model's expectation of it."""
    context, _ = model.temporal_prior.advance(state, action)
    raw = model.temporal_prior.prior(context)
    encoding = model.encoder.encode(model.encoder.tokens(obs), context, sample=False)
    surprise = model.divergence(encoding, raw)
    epistemic = None if model.ensemble is None else model.uncertainty(state, action).epistemic
    likelihoods = model.decode(State(context, model.family.mode(raw)))
    expected = {n: likelihoods[n].mode for n, spec in model.obs_specs.items() if spec.kind == "vector"}
    far = [(model.standardizer(n, obs[n]) - model.standardizer(n, value)).abs() for n, value in expected.items()]
    residual = torch.cat(far, -1) if far else surprise.new_zeros(len(surprise), 0)
    return Sight(surprise, epistemic, residual, expected)


@dataclass(frozen=True)
class Nominal:
    """Scores of ordinary steps, sorted along N: surprise (N,), epistemic (N,) or None, residual (N, n)."""

    surprise: Tensor
    epistemic: Tensor | None
    residual: Tensor

    @property
    def residual_scale(self) -> Tensor:
        """Root of the mean square of every number's residual (n,)."""
        return self.residual.square().mean(0).sqrt()

    def p_values(self, sight: Sight) -> dict[str, Tensor]:
        """How often ordinary steps score at least as high: `surprise` (B,), `epistemic` (B,), `residual` (B, n).

        (1 + count) / (1 + N): valid p-values where steps are exchangeable (Vovk et al. 2005, eq. 2.20, conformal).
        """
        found = {"surprise": p_value(self.surprise, sight.surprise, in_order=True)}
        if self.epistemic is not None and sight.epistemic is not None:
            found["epistemic"] = p_value(self.epistemic, sight.epistemic, in_order=True)
        columns = [
            p_value(self.residual[:, i].contiguous(), sight.residual[:, i], in_order=True)
            for i in range(sight.residual.shape[-1])
        ]
        return found | {"residual": torch.stack(columns, -1) if columns else sight.residual}


@torch.no_grad()
def nominal_scores(model: WorldModel, replay: Replay, count: int, *, seed: int) -> Nominal:
    """Scores of about `count` steps of a replay, seen as an agent sees them when it acts.

    Raises: ReplayError: the replay holds no window.
    """
    length = min(32, replay.longest - 1)
    batch = replay.sample(max(1, -(-count // length)), length, generator(seed, "nominal")).to(model.device)
    sights: list[tuple[Sight, Tensor]] = []
    state: State | None = None
    age = torch.zeros(len(batch.action), dtype=torch.long, device=model.device)
    for t in range(length + 1):
        obs = {name: value[:, t] for name, value in batch.obs.items()}
        action = batch.action[:, t - 1] if t else None
        first = batch.starts[:, t]
        age = torch.where(first, torch.where(batch.is_first[:, t], SETTLED, 0), age + 1)
        if state is not None and action is not None:
            sights.append((look(model, state, action, obs), ~first & (age > SETTLED)))
        state = model.filter(state, action, obs, first, sample=False)
    kept = torch.stack([where for _, where in sights])  # (T, B)
    epistemic = [sight.epistemic for sight, _ in sights if sight.epistemic is not None]
    return Nominal(
        torch.stack([sight.surprise for sight, _ in sights])[kept].sort().values,
        torch.stack(epistemic)[kept].sort().values if epistemic else None,
        torch.stack([sight.residual for sight, _ in sights])[kept].sort(0).values,
    )
