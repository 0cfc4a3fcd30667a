"""State, Batch and Rollout: what they do to their tensors."""

import pytest
import torch

from tests.contracts.tools import OBS, random_obs, window
from worldmodels.types import Encoding, State, cat_states, stack_states


def state(*lead, cache=False):
    torch.manual_seed(0)
    return State(torch.randn(*lead, 3), torch.randn(*lead, 2), torch.randn(*lead, 4, 6) if cache else None)


def tensors(s):
    return [s.context, s.z, *([] if s.cache is None else [s.cache])]


def equal(one, other):
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


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


def test_detach_cuts_everything():
    leaf = torch.randn(2, 3, requires_grad=True)
    cut = State(leaf * 2, leaf[:, :2] * 2, leaf.unsqueeze(1) * 2).detach()
    assert not any(tensor.requires_grad for tensor in tensors(cut)) and len(tensors(cut)) == 3


def test_features_do_not_read_the_cache():
    assert torch.equal(state(4, cache=True).features, state(4).features)


@pytest.mark.parametrize("cache", [False, True])
def test_rows_stay_together_whatever_is_done_with_them(cache):
    s = state(4, 5, cache=cache)
    assert equal(s.flatten().index(7), s.index((1, 2)))
    row = s.index(2)  # (5, ...)
    assert equal(row.expand(3).index(1), row)
    again = row.repeat(3)
    assert len(again.z) == 15 and equal(again.index(slice(5, 10)), row)
    assert equal(cat_states([row, s.index(0)]).index(slice(5, 10)), s.index(0))
    where = torch.tensor([False, True, False, True, False])
    fresh = s.index(3).index(slice(2))
    mended = row.replaced(where, fresh)
    assert equal(mended.index(where), fresh) and equal(mended.index(~where), row.index(~where))
    assert equal(row, s.index(2))  # what it was made from is as it was


def test_stacked_caches_move_on_by_one_token_and_share_their_memory():
    tokens = torch.randn(2, 11, 6)  # 4 of the first state, and 7 of the states after it
    states = [State(torch.zeros(2, 1), torch.zeros(2, 1), tokens[:, t : t + 4].clone()) for t in range(8)]
    stacked = stack_states(states).cache
    assert stacked.shape == (2, 8, 4, 6)
    assert all(torch.equal(stacked[:, t], s.cache) for t, s in enumerate(states))
    assert stacked.untyped_storage().nbytes() == 4 * tokens.numel()


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
