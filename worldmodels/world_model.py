"""WorldModel: loss, infer, filter, imagine, decode. Made of conditional distributions and of nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf, nan

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from worldmodels.decoders import Decoder, InverseDecoder
from worldmodels.dynamics import Members
from worldmodels.encoders import FlowEncoder, Standardizer, VAEEncoder
from worldmodels.errors import ConfigError
from worldmodels.heads import ContinuationHead, TwoHotHead, masked_mean
from worldmodels.nets import operand
from worldmodels.options import ObjectiveOptions
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import (
    Batch,
    Encoding,
    LatentFamily,
    LossOutput,
    Policy,
    Rollout,
    State,
    TemporalPrior,
    Uncertainty,
    stack_states,
)
from worldmodels.uncertainty import Calibration, decompose

ENSEMBLE_STRIDE = 2
"""The ensemble learns from every second transition of a window: windows begin anywhere, and it costs half."""


class WorldModel(nn.Module):
    """A latent state-space model:

        log p(o_0..o_T | a) >= E_q[ log p(z_0) + sum log p(z_{t+1} | s_t, a_t) + sum (log_volume_t + log p(o_t | s_t)) ]

    Use `worldmodels.build.build_world_model` to make one from options. `ensemble`, if there is one, learns beside the
    rest from what the rest computes, and changes nothing of it; `calibration` holds the widths of its intervals.
    """  # noqa: D400, D415

    def __init__(
        self,
        *,
        encoder: VAEEncoder | FlowEncoder,
        family: LatentFamily,
        temporal_prior: TemporalPrior,
        marginal: MarginalPrior,
        decoder: Decoder | InverseDecoder,
        reward: TwoHotHead,
        continuation: ContinuationHead,
        standardizer: Standardizer,
        objective: ObjectiveOptions,
        obs_specs: Mapping[str, ObsSpec],
        action_spec: ActionSpec,
        ensemble: Members | None = None,
    ) -> None:
        super().__init__()
        self.obs_specs, self.action_spec = dict(obs_specs), action_spec
        self.encoder, self.family, self.marginal = encoder, family, marginal
        self.family_module: nn.Module | None = getattr(family, "module", None)
        self.temporal_prior = temporal_prior
        self.decoder, self.reward, self.continuation = decoder, reward, continuation
        self.standardizer = standardizer
        self.objective = objective
        self.ensemble = ensemble
        self.calibration = None if ensemble is None else Calibration()
        self.compiled_step: Callable[[State, Tensor], tuple[State, Tensor]] | None = None  # `one_step`, but faster

    @property
    def features_size(self) -> int:
        """Width F of a state's features."""
        return self.temporal_prior.context_size + self.family.width

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.marginal.table.device

    def fit_standardizer(self, obs: Mapping[str, Tensor]) -> None:
        """Set centre and spread of vectors and images, once, from name -> (N, ...)."""
        self.standardizer.fit(obs)

    def loss(self, batch: Batch) -> LossOutput:
        """Training loss and evidence lower bound of a batch of windows. Scalars in nats."""
        encoding, states = self._encode(batch)
        contexts = states.context
        features = states.features  # (B, T+1, F)
        raw_prior = self._prior_of(contexts, batch)
        log_likelihood, weighted = self.decoder.log_prob(features, batch.obs)  # (B, T+1)
        kl, latent_terms, masks = self._divergences(encoding, raw_prior, batch)  # (B, T+1)
        masks |= {"observation": batch.obs_mask, "reward": batch.mask, "continuation": batch.mask}
        reached = features[:, 1:].contiguous()  # (B, T, F): reward and continuation belong to what was reached
        terms = {
            "observation": -masked_mean(weighted, batch.obs_mask),
            "reward": -masked_mean(self.reward(reached).log_prob(batch.reward), batch.mask),
            "continuation": -masked_mean(self.continuation(reached).log_prob((~batch.terminated).float()), batch.mask),
            **latent_terms,
        } | encoding.aux
        if self.ensemble is not None:
            terms["ensemble"], masks["ensemble"] = self._ensemble_loss(self.ensemble, encoding, contexts, batch)
        weights = vars(self.objective)
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        bound = masked_mean(log_likelihood - kl, batch.obs_mask)
        follows = ~batch.starts & batch.obs_mask
        metrics = {"kl": masked_mean(kl, follows), "log_likelihood": masked_mean(log_likelihood, batch.obs_mask)}
        detached = {name: value.detach() for name, value in (terms | metrics).items()}
        return LossOutput(total, terms, bound.detach(), states.detach(), detached, masks)

    def infer(self, batch: Batch, *, sample: bool = True) -> State:
        """Posterior states (B, T+1) of a batch of windows; `sample` draws their latents instead of taking modes."""
        return self._encode(batch, sample=sample)[1]

    def log_weight(self, batch: Batch, *, sample: bool = True) -> Tensor:
        """log p(o_t | s_t) + log p(z_t | h_t) - log q(z_t | o_t) of every step in nats (B, T+1), 0 where unseen.

        For a bijection with `sample` False this is log p(o_t | o_0..o_{t-1}, a), exactly; else its sum over a window is
        the log-weight of one importance sample.
        """
        encoding, states = self._encode(batch, sample=sample)
        log_likelihood, _ = self.decoder.log_prob(states.features, batch.obs)
        log_prior = self.family.log_prob(self._prior_of(states.context, batch), encoding.z)
        return torch.where(batch.obs_mask, log_likelihood + log_prior + encoding.log_volume, 0)

    @torch.no_grad()
    def surprise(self, batch: Batch, *, sample: bool = True) -> Tensor:
        """KL(q(z_t | o_t) || p(z_t | history)) of each observation of a batch of windows, nats (B, T+1); 0 if unseen.

        How far an observation moves what was expected (Itti and Baldi 2009). Noise surprises as news does: it judges
        this transition, not the model's knowledge. Where a state begins anew the expectation is the marginal prior. A
        bijection has no posterior: for it this is -log p(o_t | history), exactly if `sample` is False.
        """
        encoding, states = self._encode(batch, sample=sample)
        kl, _, _ = self._divergences(encoding, self._prior_of(states.context, batch), batch)
        return torch.where(batch.obs_mask, kl, 0)

    def divergence(self, encoding: Encoding, raw: Tensor) -> Tensor:
        """KL(q(z | o) || p(z)) of an encoding and raw prior parameters (..., P), nats (...).

        By one sample where the prior is a flow; -log p(o) for a bijection, which has no posterior.
        """
        if encoding.posterior is None or self.family_module is not None:
            return -self.family.log_prob(raw, encoding.z) - encoding.log_volume
        return self.family.kl(encoding.posterior, raw)

    def filter(
        self,
        state: State | None,
        action: Tensor | None,
        obs: Mapping[str, Tensor],
        is_first: Tensor,
        *,
        sample: bool = True,
    ) -> State:
        """One step of acting: posterior state (B, ...) after `action` (B, A) in `state` led to `obs` (B, *shape).

        Where `is_first` (B,), state and action are ignored; both may be None if it is True everywhere.
        sample: draw the latent from the posterior instead of taking its mode.
        """
        if state is None or action is None:
            context, cache = self.temporal_prior.initial(is_first.shape[0])
        else:
            context, cache = self.temporal_prior.advance(state, action)
            if bool(is_first.any()):
                initial, empty = self.temporal_prior.initial(is_first.shape[0])
                context = torch.where(is_first.unsqueeze(-1), initial, context)
                if cache is not None and empty is not None:
                    cache = torch.where(is_first[:, None, None], empty, cache)
        return State(context, self.encoder.latent(self.encoder.tokens(obs), context, sample=sample), cache)

    def imagine(
        self,
        state: State,
        policy: Policy | Tensor,
        horizon: int,
        *,
        uncertainty: bool = False,
        entropy: bool = True,
        sample: bool = True,
    ) -> Rollout:
        """Roll `horizon` steps from `state` (B, ...) without observations or decoder.

        policy: features (B, F) -> action (B, A), or a fixed plan (B, H, A). Runs with or without gradients.
        uncertainty: ask the ensemble about every step too, once for all of them; without an ensemble nothing changes.
        entropy: without it `aleatoric` is NaN, and nothing is spent on it. sample: draw each latent from the prior
        instead of taking its mode.
        """
        members = self.ensemble if uncertainty else None
        spread = members is None and (entropy or uncertainty)  # of the prior; members say it themselves
        step = partial(self.one_step, sample=sample) if self.compiled_step is None or not sample else self.compiled_step
        states, priors, actions = [state], [], []
        for t in range(horizon):
            action = policy[:, t] if isinstance(policy, Tensor) else policy(state.features)
            state, raw = step(state, action)
            states.append(state)
            priors.append(raw)
            actions.append(action)
        contexts, latents = [s.context for s in states[1:]], [s.z for s in states[1:]]
        reached = operand(torch.cat([torch.stack(contexts, 1), torch.stack(latents, 1)], -1))  # (B, H, F): one matrix
        reward = self.reward(reached).mean
        rollout = Rollout(
            stack_states(states),  # (B, H+1, ...)
            torch.stack(actions, 1),
            reward,
            self.continuation(reached).probs,
            self.family.entropy(torch.stack(priors, 1)) if spread else torch.full_like(reward, nan),
        )
        if members is None:
            return rollout
        return replace(rollout, **self._disagreement(members, rollout.states.context[:, 1:])._asdict())

    def one_step(self, state: State, action: Tensor, *, sample: bool = True) -> tuple[State, Tensor]:
        """The state (B, ...) that `action` (B, A) leads to in imagination, drawn or the mode; its raw prior (B, P)."""
        context, cache = self.temporal_prior.advance(state, action)
        raw = self.temporal_prior.prior(context)
        z = self.family.sample(raw) if sample else self.family.mode(raw)
        return State(context, z, cache), raw

    def uncertainty(self, states: State, action: Tensor) -> Uncertainty:
        """What the ensemble says about taking `action` (..., A) in `states` (...).

        Raises: ConfigError: the model has no ensemble.
        """
        if self.ensemble is None:
            raise ConfigError("this world model has no ensemble: train it with world_model.ensemble.members=5")
        lead = action.shape[:-1]
        flat = states.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        context, _ = self.temporal_prior.advance(flat, action.reshape(-1, action.shape[-1]))
        return self._disagreement(self.ensemble, context.reshape(*lead, -1))

    def dream_start(self, batch: int) -> State:
        """States (B, ...) drawn from the marginal prior of an episode's first latent."""
        raw = self.marginal.parameters_of(torch.ones(batch, dtype=torch.bool, device=self.device))
        context, cache = self.temporal_prior.initial(batch)
        return State(context, self.family.sample(raw), cache)

    def decode(self, states: State) -> dict[str, Distribution]:
        """Observation likelihoods of states (...)."""
        return self.decoder(states.features)

    def _disagreement(self, ensemble: Members, context: Tensor) -> Uncertainty:
        """Contexts (..., D) -> uncertainty of the latents that they lead to."""
        return decompose(ensemble.family, ensemble(context, self.temporal_prior.previous(context)))

    def _ensemble_loss(
        self, ensemble: Members, encoding: Encoding, contexts: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Sum over members of KL(q || p_k), or -log p_k(z) without a posterior, in nats per step that the data hold.

        Cut from everything else: contexts, latents and posterior are data here. Also which steps each member saw.
        """
        steps = slice(1, None, ENSEMBLE_STRIDE)
        contexts = contexts.detach()[:, steps]
        members = ensemble(contexts, self.temporal_prior.previous(contexts))  # (K, B, T, P)
        if encoding.posterior is None:
            nats = -ensemble.family.log_prob(members, encoding.z.detach()[:, steps])
        else:
            nats = ensemble.family.kl(encoding.posterior.detach()[:, steps], members)
        seen = (~batch.starts & batch.obs_mask)[:, steps].expand_as(nats)  # (K, B, T / 2)
        if batch.rows is not None:
            seen = seen & ensemble.sees(batch.rows[:, steps])
        return ensemble.members * masked_mean(nats, seen), seen

    def _encode(self, batch: Batch, *, sample: bool = True) -> tuple[Encoding, State]:
        """Encodings and posterior states (B, T+1, ...) of a window."""
        tokens = self.encoder.tokens(batch.obs)  # (B, T+1, E)
        starts = batch.starts
        if not self.encoder.sees_context:
            encoding = self.encoder.encode(tokens, sample=sample)
            contexts, caches = self.temporal_prior.scan(encoding.z, batch.action, starts)
            return encoding, State(contexts, encoding.z, caches)
        context, _ = self.temporal_prior.initial(tokens.shape[0])
        encodings, contexts = [], []
        for t in range(tokens.shape[1]):
            if t > 0:
                advanced, _ = self.temporal_prior.advance(State(context, encodings[-1].z), batch.action[:, t - 1])
                context = advanced * (~starts[:, t]).unsqueeze(-1)
            encodings.append(self.encoder.encode(tokens[:, t], context, sample=sample))
            contexts.append(context)
        posteriors = [e.posterior for e in encodings if e.posterior is not None]
        encoding = Encoding(
            torch.stack([e.z for e in encodings], 1),
            torch.stack([e.log_volume for e in encodings], 1),
            torch.stack(posteriors, 1) if posteriors else None,
        )
        return encoding, State(torch.stack(contexts, 1), encoding.z)

    def _prior_of(self, contexts: Tensor, batch: Batch) -> Tensor:
        """Raw prior parameters (B, T+1, P): marginal where a state begins anew, temporal elsewhere."""
        temporal = self.temporal_prior.prior(contexts)
        return torch.where(batch.starts.unsqueeze(-1), self.marginal.parameters_of(batch.is_first), temporal)

    def _divergences(
        self, encoding: Encoding, raw_prior: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """log q(z|o) - log p(z|h) in nats (B, T+1), detached; terms dynamics, representation, marginal; their masks.

        Free nats hold for each step's closed-form KL, and for the batch mean of a one-sample estimate. A bijection has
        no posterior: the terms are its exact negative log-likelihood, with nothing to leave free or to balance.
        """
        starts, follows = batch.starts & batch.obs_mask, ~batch.starts & batch.obs_mask
        free, masks = self.objective.free_nats, {"dynamics": follows, "representation": follows, "marginal": starts}
        if encoding.posterior is None:
            nats = self.divergence(encoding, raw_prior)
            parts = {
                name: masked_mean(torch.where(where, nats, 0), batch.obs_mask)
                for name, where in (("dynamics", follows), ("marginal", starts))
            }
            parts["representation"] = torch.zeros_like(parts["dynamics"])
            return nats.detach(), parts, dict.fromkeys(parts, batch.obs_mask)
        dynamics = self.divergence(encoding.detach(), raw_prior)
        representation = self.divergence(encoding, raw_prior.detach())
        if self.family_module is None:
            terms = {
                "dynamics": masked_mean(dynamics.clamp(min=free), follows),
                "representation": masked_mean(representation.clamp(min=free), follows),
                "marginal": masked_mean(dynamics, starts),
            }
            return dynamics.detach(), terms, masks
        terms = {
            "dynamics": masked_mean(dynamics, follows).clamp(min=free or -inf),
            "representation": masked_mean(representation, follows).clamp(min=free or -inf),
            "marginal": masked_mean(dynamics, starts),
        }
        return dynamics.detach(), terms, masks
