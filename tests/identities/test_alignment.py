"""Actions, rewards and observations stay paired from the environment to the lambda-return, exactly.

The physics of `Counting` can be inverted, so a shift by one step anywhere shows as a wrong integer. Around the real
replay, scan, filter and imagination stand an encoder, a prediction and a reward head that know the physics.
"""

import numpy as np
import pytest
import torch

from agents.collector import Collector
from agents.returns import lambda_return
from envs.options import EnvOptions
from envs.toy import COUNTING_CODES, counting_step
from envs.vector import VectorEnv
from tests.agents.stubs import CountingAgent
from worldmodels.dynamics import RecurrentPrior
from worldmodels.encoders import Standardizer
from worldmodels.options import ObjectiveOptions, RecurrentOptions
from worldmodels.priors import MarginalPrior
from worldmodels.replay import Replay
from worldmodels.specs import ActionSpec
from worldmodels.types import Encoding, State
from worldmodels.world_model import WorldModel

ACTIONS, DETER = 4, 8


class Known:
    """A latent that is known exactly: its raw parameters are its value, (episode, t, code)."""

    width = parameters = 3
    ordered = True  # contexts then carry the last latent and action

    def sample(self, raw):
        return raw

    mode = sample

    def entropy(self, raw):
        return torch.zeros(raw.shape[:-1])


class KnownPrior(RecurrentPrior):
    """The real recurrence; what comes next is read from the last latent and action that its context carries."""

    def prior(self, context):
        last, action = self.last(context)
        code = (5 * last[..., 2] + action + 1) % COUNTING_CODES
        return torch.stack([last[..., 0], last[..., 1] + 1, code], -1)

    def last(self, context):
        return context[..., DETER : DETER + 3], context[..., DETER + 3 :].argmax(-1)


class KnownEncoder(torch.nn.Module):
    """z = o."""

    sees_context = False

    def tokens(self, obs):
        return obs["obs"]

    def encode(self, tokens, context=None, *, sample=True):
        return Encoding(tokens, torch.zeros(tokens.shape[:-1]))

    def latent(self, tokens, context=None, *, sample=True):
        return tokens


class KnownReward(torch.nn.Module):
    """g(obs, action), from the context of the state that was reached."""

    def __init__(self, prior):
        super().__init__()
        self.prior = [prior]

    def forward(self, features):
        last, action = self.prior[0].last(features[..., :-3])
        return torch.distributions.Normal(ACTIONS * last[..., 1] + action, 1.0, validate_args=False)


@pytest.fixture(scope="module")
def replay():
    """A few hundred steps of two Counting environments under random actions."""
    with VectorEnv(EnvOptions(id="worldmodels/Counting-v0"), 2) as envs:
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=2000, streams=2)
        collector = Collector(CountingAgent(), envs, replay, seed=0, rng=np.random.default_rng(0))
        steps = sum(collector.step(random=True)[0] for _ in range(400))
    assert steps == len(replay) == 800
    return replay


@pytest.fixture(scope="module")
def model(replay):
    torch.manual_seed(0)
    family = Known()
    options = RecurrentOptions(deter=DETER, hidden=8)
    prior = KnownPrior(family, ACTIONS, **vars(options), norm=True)
    continuation = torch.nn.Identity()
    continuation.forward = lambda features: torch.distributions.Bernoulli(torch.full(features.shape[:-1], 0.5))
    return WorldModel(
        obs_specs=replay.obs_specs,
        action_spec=ActionSpec("continuous", dimensions=replay.action_size),
        encoder=KnownEncoder(),
        family=family,
        temporal_prior=prior,
        marginal=MarginalPrior(family),
        decoder=torch.nn.Identity(),
        reward=KnownReward(prior),
        continuation=continuation,
        standardizer=Standardizer(replay.obs_specs),
        objective=ObjectiveOptions(),
    )


@pytest.fixture(params=range(5))
def batch(request, replay):
    return replay.sample(16, 20, np.random.default_rng(request.param))


def test_trap_action_and_observation_are_paired_in_batches(batch):
    obs = batch.obs["obs"].numpy()
    checked = 0
    for b, t in batch.mask.nonzero().tolist():
        after, reward = counting_step(obs[b, t], int(batch.action[b, t].argmax()))
        assert (obs[b, t + 1] == after).all() and float(batch.reward[b, t]) == reward
        checked += 1
    assert checked > 200
    gone = ~batch.mask
    assert gone.any() and (batch.action[gone] == 0).all() and (batch.reward[gone] == 0).all()
    assert batch.is_first[:, 1:][gone].all() and not batch.is_first[:, 1:][batch.mask].any()
    assert (obs[..., 1][batch.is_first.numpy()] == 0).all()


def test_trap_action_and_observation_are_paired_through_infer(model, batch):
    states = model.infer(batch)
    predicted = model.temporal_prior.prior(states.context)[:, 1:]
    reward = model.reward(states.features[:, 1:]).mean
    assert torch.equal(predicted[batch.mask], states.z[:, 1:][batch.mask])
    assert torch.equal(reward[batch.mask], batch.reward[batch.mask])
    assert states.context[:, 1:][~batch.mask].abs().max() == 0


def test_action_and_observation_are_paired_through_filter(model, batch):
    state = None
    for t in range(21):
        action = batch.action[:, t - 1] if t else None
        state = model.filter(state, action, {"obs": batch.obs["obs"][:, t]}, batch.is_first[:, t])
        real = batch.mask[:, t - 1] if t else torch.zeros(16, dtype=torch.bool)
        assert torch.equal(model.temporal_prior.prior(state.context)[real], state.z[real])
        assert t == 0 or torch.equal(model.reward(state.features).mean[real], batch.reward[:, t - 1][real])


def test_imagination_repeats_what_happened_and_the_lambda_return_its_sum(model, batch):
    start = model.infer(batch).index((slice(None), 0))
    rollout = model.imagine(start, batch.action, 20)
    lived = batch.mask.cumprod(1).bool()  # up to the first episode's end
    assert torch.equal(rollout.states.z[:, 1:][lived], batch.obs["obs"][:, 1:][lived])
    assert torch.equal(rollout.reward[lived], batch.reward[lived])
    discount = 0.5 * lived.roll(-1, 1).float()
    discount[:, -1] = 0
    returns = lambda_return(rollout.reward * lived, discount, torch.full_like(discount, 1e9) * 0, 1.0)
    for b in range(16):
        steps = int(lived[b].sum())
        expected = [sum(0.5 ** (k - t) * float(batch.reward[b, k]) for k in range(t, steps)) for t in range(steps)]
        assert returns[b, :steps].tolist() == pytest.approx(expected, abs=1e-6 * 100)


def test_policy_in_imagination_acts_on_the_state_before_the_step(model):
    start = State(torch.zeros(4, DETER + 3 + ACTIONS), torch.tensor([[7.0, 0, 10 + k] for k in range(4)]))

    def policy(features):  # the action that the code says
        return torch.nn.functional.one_hot(features[:, -1].long() % ACTIONS, ACTIONS).float()

    rollout = model.imagine(start, policy, 6)
    for b in range(4):
        obs = start.z[b].numpy()
        for t in range(6):
            obs, reward = counting_step(obs, int(obs[2]) % ACTIONS)
            assert rollout.states.z[b, t + 1].tolist() == obs.tolist() and rollout.reward[b, t].item() == reward
