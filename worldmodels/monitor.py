"""Monitor: out-of-distribution scores of a world model's latents and of its transitions, step by step, kept apart."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodels.distributions import symlog
from worldmodels.errors import ConfigError
from worldmodels.fitting import minimise
from worldmodels.nets import mlp
from worldmodels.types import Batch
from worldmodels.uncertainty.density import FlowDensity
from worldmodels.uncertainty.detection import cusum
from worldmodels.world_model import WorldModel

KNEE = 5.0
"""Standard deviations up to which residuals count linearly; further out they count as their logarithm."""
WINDOW = 50
"""Steps that a small shift may have lasted when it is found."""
ALLOWANCE = 0.1
"""Half the smallest shift, in standard deviations a step, that the CUSUM adds up."""


@dataclass
class Scores:
    """Scores (B, T+1) of every step, higher is more out of distribution; NaN where there is none.

    latent: -log p of the latent under a flow. surprise: KL(q || p), or for a bijection the exact -log p(o | past).
    transition: -log p, under a second flow, of how the step differs from what latent and action foretell.
    drift: CUSUM over the last 50 steps, the largest of many: of those differences with either sign, of their products
    with latent and action, and of `transition`; for small shifts.
    """

    latent: Tensor
    surprise: Tensor
    transition: Tensor
    drift: Tensor


class Monitor(nn.Module):
    """Fitted once on nominal windows (`fit`); then `scores` of any. No score knows how old an episode is."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self._looked_at = (model,)  # in a tuple, not owned: its parameters are not the monitor's
        self.predictor: _Predictor
        self.latents: FlowDensity
        self.residuals: FlowDensity

    @property
    def model(self) -> WorldModel:
        """The world model whose latents are scored."""
        return self._looked_at[0]

    def fit(self, nominal: Batch, *, steps: int = 1500, seed: int = 0) -> "Monitor":
        """Learn from whole nominal episodes (B, ...): predictor and latents from the first two thirds, the rest after.

        steps: of each optimisation. Random numbers outside stay untouched.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            code, mean, action = self._trace(nominal)
            held_out = torch.arange(len(code)) >= (2 * len(code) + 2) // 3
            inputs, target, valid = _steps(code, mean, action, nominal)
            first = valid & ~held_out.unsqueeze(-1)
            self.predictor = _Predictor(inputs.shape[-1], target.shape[-1])
            self.predictor.fit(inputs[first], target[first], steps=steps, seed=seed)
            seen = nominal.obs_mask & ~held_out.unsqueeze(-1)
            self.latents = FlowDensity(code.shape[-1]).fit(code[seen], steps=steps, seed=seed)
            rest = valid & held_out.unsqueeze(-1)
            residual = target[rest] - self.predictor(inputs[rest])
            self.register_buffer("spread", residual.std(0).clamp(min=1e-8))
            self.residuals = FlowDensity(code.shape[-1]).fit(self._squash(residual), steps=steps, seed=seed)
            self.register_buffer("input_center", inputs[first].mean(0))
            self.register_buffer("input_spread", inputs[first].std(0).clamp(min=1e-6))
            influence = self._influence(inputs[rest], self._squash(residual))
            odd = symlog(self.residuals.score(self._squash(residual)))
            self.register_buffer("odd_mean", odd.mean())
            self.register_buffer("odd_std", odd.std().clamp(min=1e-8))
            self.register_buffer("influence_mean", influence.mean(0))
            self.register_buffer("influence_std", influence.std(0).clamp(min=1e-8))
        return self

    @torch.no_grad()
    def scores(self, batch: Batch) -> Scores:
        """Scores of every step of windows (B, ...)."""
        code, mean, action = self._trace(batch)
        inputs, target, valid = _steps(code, mean, action, batch)
        residual = self._squash(target - self.predictor(inputs))
        missing = torch.full(batch.obs_mask.shape, torch.nan)
        influence = self._influence(inputs, residual) - self.get_buffer("influence_mean")
        influence = torch.where(valid.unsqueeze(-1), influence / self.get_buffer("influence_std"), torch.nan)
        transition = self.residuals.score(residual)  # (B, T)
        odd = (symlog(transition) - self.get_buffer("odd_mean")) / self.get_buffer("odd_std")
        both = torch.cat([influence, -influence, odd.unsqueeze(-1)], -1).transpose(1, 2)  # (B, 2J + 1, T)
        drift = cusum(both, 0.0, 1.0, allowance=ALLOWANCE, window=WINDOW).amax(1)  # (B, T)
        after = lambda score: torch.cat([missing[:, :1], torch.where(valid, score, torch.nan)], 1)  # noqa: E731
        return Scores(
            latent=torch.where(batch.obs_mask, self.latents.score(code), missing),
            surprise=torch.where(batch.obs_mask & ~batch.starts, self.model.surprise(batch, sample=False), missing),
            transition=after(transition),
            drift=after(drift),
        )

    @torch.no_grad()
    def _trace(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of what was seen and of what was foretold, (B, T+1, Z) each, and actions (B, T, A)."""
        states = self.model.infer(batch, sample=False)
        family, raw = self.model.family, self.model.temporal_prior.prior(states.context)
        mean = family.mode(raw) if family.ordered else family.moments(raw)[0]  # neither draws a random number
        return states.z, mean, batch.action

    def _squash(self, residual: Tensor) -> Tensor:
        """Residuals in standard deviations, logarithmic far out."""
        return KNEE * symlog(residual / (KNEE * self.get_buffer("spread")))

    def _influence(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """Residuals (..., Z) times 1 and every input (..., I): what a small change of one coefficient adds to.

        These are the scores, in the sense of Rao (1948), of a linear change of the transition.
        """
        white = ((inputs - self.get_buffer("input_center")) / self.get_buffer("input_spread")).clamp(-KNEE, KNEE)
        ones = torch.ones_like(white[..., :1])
        return (residual.unsqueeze(-1) * torch.cat([ones, white], -1).unsqueeze(-2)).flatten(-2)


class _Predictor(nn.Module):
    """Least squares, and a perceptron for what it leaves: the next code from code, action and the model's own guess."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("linear", torch.zeros(inputs + 1, outputs))
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("scale", torch.ones(outputs))
        self.net = mlp(inputs, 64, 2, outputs, norm=False, scale=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) -> (..., Z)."""
        white = (inputs - self.get_buffer("center")) / self.get_buffer("spread")
        ones = torch.ones_like(white[..., :1])
        linear = torch.cat([white, ones], -1) @ self.get_buffer("linear")
        return linear + self.get_buffer("scale") * self.net(white)

    def fit(self, inputs: Tensor, target: Tensor, *, steps: int, seed: int) -> None:
        """From rows (N, I) to rows (N, Z); the rate falls to zero."""
        generator = torch.Generator().manual_seed(seed)
        self.get_buffer("center").copy_(inputs.mean(0))
        self.get_buffer("spread").copy_(inputs.std(0).clamp(min=1e-6))
        white = (inputs - self.get_buffer("center")) / self.get_buffer("spread")
        rows = torch.cat([white, torch.ones_like(white[:, :1])], -1).double()
        ridge = 1e-6 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
        self.get_buffer("linear").copy_(torch.linalg.solve(rows.T @ rows + ridge, rows.T @ target.double()))
        self.get_buffer("scale").copy_((target - rows.float() @ self.get_buffer("linear")).std(0).clamp(min=1e-8))

        def loss() -> Tensor:
            chosen = torch.randint(len(inputs), (min(256, len(inputs)),), generator=generator)
            error = (target[chosen] - self(inputs[chosen])) / self.get_buffer("scale")
            return nn.functional.smooth_l1_loss(error, torch.zeros_like(error))

        minimise(self.net.parameters(), loss, steps=steps, rate=3e-3)
        self.requires_grad_(False)


@torch.no_grad()
def member_log_prob(model: WorldModel, batch: Batch) -> Tensor:
    """log p_k(z_t | history) of the ensemble's members at the posterior's mode, nats (K, B, T+1); NaN where unforetold.

    `uncertainty.waic` of it is a score of transitions: improbable, or judged differently by the members.
    Raises: ConfigError: the model has no ensemble.
    """
    if model.ensemble is None:
        raise ConfigError("members' densities need a world model with an ensemble: world_model.ensemble.members=5")
    states = model.infer(batch, sample=False)
    members = model.ensemble(states.context, model.temporal_prior.previous(states.context))
    nats = model.ensemble.family.log_prob(members, states.z)
    return torch.where(batch.obs_mask & ~batch.starts, nats, torch.nan)


def _steps(code: Tensor, mean: Tensor, action: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (B, T, I) and targets (B, T, Z) of every transition, and which of them exist (B, T)."""
    inputs = torch.cat([code[:, :-1], action, mean[:, 1:]], -1)
    return inputs, code[:, 1:], batch.mask & batch.obs_mask[:, 1:] & ~batch.is_first[:, 1:]
