"""The protocols: what flows between the parts, with exact shapes.

Axes, in this order: K ensemble, B batch, T time (H imagined), features. Z is the width of a latent, D of a context,
F = D + Z of the features, A of an encoded action, P of a latent family's raw parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class State:
    """A latent state: what the temporal prior carries and the latent itself.

    context: (..., D). z: (..., Z). cache: (..., M, C), what a prior with a bounded memory reads beside the context: the
    last M of its tokens, the newest at the end; None for priors whose context is all. The leading axes are equal. The
    cache is no part of the features: heads, policies and ensembles never see it.
    """

    context: Tensor
    z: Tensor
    cache: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """What heads and policies read: (..., D + Z)."""
        return torch.cat([self.context, self.z], -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """The state of what `function` makes of every tensor."""
        cache = None if self.cache is None else function(self.cache)
        return State(function(self.context), function(self.z), cache)

    def index(self, key: Any) -> "State":  # noqa: ANN401 (anything that indexes a tensor)
        """The state at `key` of the leading axes."""
        return self.map(lambda x: x[key])

    def flatten(self) -> "State":
        """(B, T, ...) -> (B * T, ...). Caches are copied: where only some rows are wanted, index them first."""
        return self.map(lambda x: x.flatten(0, 1))

    def expand(self, size: int) -> "State":
        """(B, ...) -> (size, B, ...), without a copy."""
        return self.map(lambda x: x.expand(size, *x.shape))

    def repeat(self, size: int) -> "State":
        """(B, ...) -> (size * B, ...), the whole batch again and again."""
        return self.map(lambda x: x.repeat(size, *[1] * (x.dim() - 1)))

    def detach(self) -> "State":
        """The same state, cut from the graph."""
        return self.map(torch.Tensor.detach)

    def replaced(self, where: Tensor, fresh: "State") -> "State":
        """The state (B, ...) with the rows where `where` (B,) is True taken from `fresh` (N, ...), in order."""
        own, given = self.map(torch.clone), _tensors(fresh)
        for kept, new in zip(_tensors(own), given, strict=True):
            kept[where] = new
        return own


def stack_states(states: list[State]) -> State:
    """H consecutive states of (B, ...) -> one of (B, H, ...).

    From one step to the next a cache moves on by one token, so H of them are views of one row of M + H - 1 tokens.
    """
    context, z = (torch.stack(column, 1) for column in ([s.context for s in states], [s.z for s in states]))
    if states[0].cache is None:
        return State(context, z)
    newest = [s.cache[:, -1:] for s in states[1:] if s.cache is not None]
    return State(context, z, sliding_caches(torch.cat([states[0].cache, *newest], 1), len(states)))


def sliding_caches(tokens: Tensor, count: int) -> Tensor:
    """Tokens (B, M + count - 1, C) -> caches (B, count, M, C) of `count` steps in a row, without a copy."""
    return tokens.unfold(1, tokens.shape[1] - count + 1, 1).transpose(-1, -2)


def cat_states(states: list[State]) -> State:
    """States of (N_i, ...) -> one of (sum N_i, ...)."""
    return State(*(torch.cat(column) for column in zip(*map(_tensors, states), strict=True)))


def _tensors(state: State) -> list[Tensor]:
    return [state.context, state.z, *([] if state.cache is None else [state.cache])]


class Encoding(NamedTuple):
    """An encoder's answer.

    z: (..., Z). log_volume: (...) nats; VAE -log q(z|o,h), flow log |det dz/do|. posterior: raw parameters (..., P) of
    q, or None for bijections and deterministic codes. details: factored-out levels of a multi-scale flow.
    aux: extra losses; each key needs a weight in the options.
    """

    z: Tensor
    log_volume: Tensor
    posterior: Tensor | None = None
    details: Tensor | None = None
    aux: dict[str, Tensor] = {}

    def detach(self) -> "Encoding":
        """What it says about the latent, cut from the graph."""
        posterior = None if self.posterior is None else self.posterior.detach()
        return Encoding(self.z.detach(), self.log_volume.detach(), posterior)


@dataclass
class Batch:
    """Windows of T transitions and their T+1 observations.

    obs: name -> (B, T+1, ...), images uint8. action: (B, T, A). reward: (B, T).
    terminated, truncated, mask: (B, T) bool; mask is False where no transition exists (an episode ended there).
    is_first, obs_mask: (B, T+1) bool. rows: (B, T+1) int64, numbers that name the observations for the whole run, or
    None: what is bootstrapped by them then uses everything.
    """

    obs: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor
    is_first: Tensor
    obs_mask: Tensor
    rows: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Every tensor on `device`."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, dict):
                moved[name] = {k: v.to(device) for k, v in value.items()}
            elif value is not None:
                moved[name] = value.to(device)
        return replace(self, **moved)

    @property
    def starts(self) -> Tensor:
        """(B, T+1) bool: where the state begins anew, because an episode or the window does."""
        starts = self.is_first.clone()
        starts[:, 0] = True
        return starts

    @property
    def alive(self) -> Tensor:
        """(B, T+1) bool: real observations that end no episode: an imagined trajectory may begin there."""
        alive = self.obs_mask.clone()
        alive[:, 1:] &= ~self.terminated
        alive[:, 0] &= self.mask[:, 0]  # the last row of an episode before the window: it may have been terminal
        return alive


class Uncertainty(NamedTuple):
    """How sure an ensemble of K members is of the next latent, apart for what is unknown and what is random.

    epistemic: (...) nats, information gain for Gaussian latents, mutual information for one-hots. aleatoric: (...)
    nats, mean entropy of the members. epistemic_variance, aleatoric_variance: (..., Z), in units of the latent.
    members: (K, ..., P), raw parameters.
    """

    epistemic: Tensor
    aleatoric: Tensor
    epistemic_variance: Tensor
    aleatoric_variance: Tensor
    members: Tensor


@dataclass
class Rollout:
    """H imagined steps from B states.

    states: (B, H+1). action: (B, H, A). reward: (B, H), of the state reached. continuation: (B, H), probability that
    the episode goes on after the step. aleatoric: (B, H) nats, entropy of the temporal prior; of the members, where
    they were asked. The rest is None unless a model with an ensemble was asked for it: epistemic (B, H) nats,
    epistemic_variance, aleatoric_variance (B, H, Z), members (K, B, H, P), as in `Uncertainty`.
    """

    states: State
    action: Tensor
    reward: Tensor
    continuation: Tensor
    aleatoric: Tensor
    epistemic: Tensor | None = None
    epistemic_variance: Tensor | None = None
    aleatoric_variance: Tensor | None = None
    members: Tensor | None = None


@dataclass
class LossOutput:
    """What `WorldModel.loss` returns.

    total: scalar to minimise. terms: name -> scalar, unweighted, in nats per valid step. bound: scalar, the evidence
    lower bound on log p(o_0..o_T | a) in nats per observation, without free nats or balance; exact for a bijection
    without noise.
    states: posterior states (B, T+1), detached. masks: name of a term -> bool (...), the places that it is a mean over.
    """

    total: Tensor
    terms: dict[str, Tensor]
    bound: Tensor
    states: State
    metrics: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)


class Encoder(Protocol):
    """Observation to latent, with what that did to volume."""

    sees_context: bool

    def tokens(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations (..., *shape) -> (..., E), computed for a whole window at once, independent of the context."""
        ...

    def encode(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Encoding:
        """The encoding of tokens (..., E); `sample` draws the latent instead of taking the middle. Never decodes."""
        ...

    def latent(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Tensor:
        """The z (..., Z) of `encode` alone: acting asks for no density."""
        ...


class LatentFamily(Protocol):
    """A latent distribution as pure functions of raw parameters (..., P).

    A family with parameters of its own (a flow) holds them in an attribute `module`; the world model trains it.
    """

    width: int
    parameters: int
    ordered: bool

    def sharpen(self, raw: Tensor) -> Tensor:
        """Raw parameters whose spread starts small, where the family has a spread."""
        ...

    def shift(self, raw: Tensor, z: Tensor) -> Tensor:
        """Raw parameters of a predicted change of z (..., Z), where the family has a notion of change."""
        ...

    def sample(self, raw: Tensor) -> Tensor:
        """Reparameterised (or straight-through) sample (..., Z)."""
        ...

    def mode(self, raw: Tensor) -> Tensor:
        """Most probable (or mean) latent (..., Z)."""
        ...

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each dimension of the latent, each (..., Z)."""
        ...

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        """Log-density of z in nats (...)."""
        ...

    def entropy(self, raw: Tensor) -> Tensor:
        """Entropy in nats (...); an estimate by one sample where it has no closed form."""
        ...

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """KL(q || p) in nats (...), summed over the latent; an estimate by one sample where it has no closed form."""
        ...

    def distribution(self, raw: Tensor) -> Distribution:
        """The same thing as a Distribution of batch shape (...)."""
        ...


Carried = tuple[Tensor, Tensor | None]
"""A context (..., D) and the cache (..., M, C) that belongs to it, None for priors without one: see `State`."""


class TemporalPrior(Protocol):
    """p(z_{t+1} | history): `advance` once a step, then the prior and the posterior read its context.

    parallel: whether `scan` needs no loop over time. Such a prior needs a posterior that does not see the context.
    """

    context_size: int
    parallel: bool

    def initial(self, batch: int) -> Carried:
        """Context before the first observation (B, D), and a cache with nothing in it."""
        ...

    def advance(self, state: State, action: Tensor) -> Carried:
        """Context after `action` (B, A) in `state` (B, ...): (B, D), and its cache."""
        ...

    def prior(self, context: Tensor) -> Tensor:
        """Raw parameters of p(z | context): (..., D) -> (..., P)."""
        ...

    def previous(self, context: Tensor) -> Tensor:
        """The latent (..., Z) that a context (..., D) was advanced from; (..., 0) where the family is not ordered."""
        ...

    def scan(self, z: Tensor, action: Tensor, starts: Tensor) -> Carried:
        """Contexts (B, T+1, D), and their caches, of a window z (B, T+1, Z), action (B, T, A), starts (B, T+1)."""
        ...

    def forward(self, context: Tensor) -> Distribution:
        """p(z | context) as a Distribution."""
        ...


Kind = Literal["exact", "bound", "none"]
"""What a reported log-density is: the density itself, a lower bound on it, or nothing (a model that has none)."""


class DensityModel(Protocol):
    """A model of still data x (N, ...): what the families of generative models have in common."""

    def log_prob(self, x: Tensor) -> tuple[Tensor, Kind]:
        """Nats (N,) and what they are; NaN with `none`."""
        ...

    def sample(self, n: int) -> Tensor:
        """New data (n, ...), in the units of x."""
        ...

    def loss(self, x: Tensor) -> Tensor:
        """Scalar to minimise, in nats per row."""
        ...


Policy = Callable[[Tensor], Tensor]
"""Features (B, F) -> encoded action (B, A)."""

Acquisition = Callable[[Rollout], Tensor]
"""A score for each step of a rollout, (B, H): plus explores, minus is pessimism."""
