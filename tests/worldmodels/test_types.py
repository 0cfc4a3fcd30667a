"""State, Batch and Rollout: what they do to their tensors."""

import torch

from tests.contracts.tools import OBS, random_obs, window
from worldmodels.types import Encoding, State, stack_states


def state(*lead):
    torch.manual_seed(0)
    return State(torch.randn(*lead, 3), torch.randn(*lead, 2))


def test_features_are_context_and_latent_in_that_order():
    s = state(4)
    assert torch.equal(s.features[:, :3], s.context) and torch.equal(s.features[:, 3:], s.z)


def test_index_flatten_expand_and_stack_keep_context_and_latent_together():
    s = state(4, 5)
    assert torch.equal(s.index((1, 2)).features, s.features[1, 2])
    assert torch.equal(s.flatten().features, s.features.flatten(0, 1))
    many = s.index(0).expand(7)
    assert many.features.shape == (7, 5, 5) and torch.equal(many.features[6], s.features[0])
    steps = [s.index((slice(None), t)) for t in range(5)]
    assert torch.equal(stack_states(steps).features, s.features)


def test_detach_cuts_both():
    leaf = torch.randn(2, 3, requires_grad=True)
    cut = State(leaf * 2, leaf[:, :2] * 2).detach()
    assert not cut.context.requires_grad and not cut.z.requires_grad


def test_starts_are_episode_and_window_starts_and_leave_is_first_as_it_was():
    batch = window(ends=(None, 2), first=(False, True))
    before = batch.is_first.clone()
    starts = batch.starts
    assert starts[:, 0].all() and starts[1, 3] and starts.sum() == 3
    assert torch.equal(batch.is_first, before) and not batch.is_first[0, 0]


def test_to_moves_every_tensor_and_keeps_the_types():
    batch = window(OBS["mixed"])
    moved = batch.to("meta")
    assert all(value.is_meta for value in moved.obs.values())
    assert moved.obs["camera"].dtype == torch.uint8 and moved.mask.is_meta and moved.mask.dtype == torch.bool
    assert not batch.mask.is_meta


def test_encodings_do_not_share_their_extra_losses():
    one = Encoding(torch.zeros(1), torch.zeros(1))
    assert one.aux == {} and one.posterior is None and one.details is None


def test_random_obs_of_the_helpers_follow_the_specs():
    for specs in OBS.values():
        for name, value in random_obs(specs, 2, 3).items():
            assert value.shape == (2, 3, *specs[name].shape)
            assert str(value.dtype).removeprefix("torch.") == specs[name].dtype
