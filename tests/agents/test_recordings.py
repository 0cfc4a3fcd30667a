"""Episodes that a card is made of: the right rows, the right actions, and no random number taken from outside."""

import numpy as np
import pytest
import torch

from agents.recordings import BEHAVIOURS, record_episodes
from envs.options import EnvOptions
from envs.toy import counting_step
from tests.agents.stubs import CountingAgent

OPTIONS = EnvOptions(id="worldmodels/Counting-v0")


def record(behaviour, **changes):
    return record_episodes(CountingAgent(), OPTIONS, behaviour, **({"episodes": 6, "steps": 10, "seed": 7} | changes))


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_row_is_what_the_environment_does_and_the_rest_is_masked(behaviour):
    batch = record(behaviour)
    steps = batch.mask.shape[1]
    assert batch.obs["obs"].shape[:2] == batch.is_first.shape == (6, steps + 1) and steps <= 10
    assert batch.is_first[:, 0].all() and not batch.is_first[:, 1:].any()
    for row in range(6):
        length = int(batch.mask[row].sum())
        assert batch.mask[row, :length].all() and batch.obs_mask[row].tolist() == [
            t <= length for t in range(steps + 1)
        ]
        for t in range(length):
            obs, reward = counting_step(batch.obs["obs"][row, t].numpy(), int(batch.action[row, t].argmax()))
            assert (batch.obs["obs"][row, t + 1].numpy() == obs).all() and float(batch.reward[row, t]) == reward
        assert (batch.reward[row, length:] == 0).all() and (batch.action[row, length:] == 0).all()
        ended = batch.terminated[row] | batch.truncated[row]
        assert ended.nonzero().flatten().tolist() in ([length - 1], [])
        assert length == 10 or bool(ended[length - 1])


def test_the_policy_acts_and_chance_acts_otherwise():
    batches = {name: record(name, steps=30) for name in BEHAVIOURS}
    first = {name: batch.action[:, 0].argmax(-1) for name, batch in batches.items()}
    codes = batches["policy"].obs["obs"][:, 0, -1].long()
    assert torch.equal(first["policy"], codes % 4)
    for row in range(6):  # the carry counts the steps of the episode, without a leak from another
        length = int(batches["policy"].mask[row].sum())
        seen = batches["policy"].obs["obs"][row, :length, -1].long() + torch.arange(length)
        assert torch.equal(batches["policy"].action[row, :length].argmax(-1), seen % 4)
    held = batches["held"].action
    for t in range(1, min(8, held.shape[1])):
        open_rows = batches["held"].mask[:, t]
        assert torch.equal(held[open_rows, t], held[open_rows, 0])
    drawn = batches["random"].action[batches["random"].mask]
    assert len(drawn.argmax(-1).unique()) == 4


def test_recording_is_repeatable_and_takes_no_random_number():
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = record("noisy"), record("noisy")
    assert torch.equal(one.action, two.action) and torch.equal(one.obs["obs"], two.obs["obs"])
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
