"""Seeds are pure functions; captured random states come back exactly; what is forked leaves no trace."""

import json
import random

import numpy as np
import pytest
import torch

from worldmodels import seeding
from worldmodels.errors import CheckpointError

PINNED = [1530983934, 1520148186, 585621863]  # a change would make every resumed run another one
PINNED_DRAW = 674474009


def draw():
    """One number of each global generator, and the second half of a Gaussian pair, which is state too."""
    return (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist())


def test_seeding_repeats_every_generator():
    seeding.seed_everything(5)
    first = draw()
    seeding.seed_everything(5)
    assert draw() == first
    seeding.seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_seeds_are_the_same_in_every_process():
    assert [seeding.episode_seed(0, 0, 0), seeding.episode_seed(1, 2, 3), seeding.derive(0, "replay")] == PINNED
    assert seeding.generator(7, "a").integers(10**9) == PINNED_DRAW


def test_seeds_differ_and_fit_into_31_bits():
    episodes = {seeding.episode_seed(r, s, e) for r in range(10) for s in range(10) for e in range(100)}
    assert len(episodes) >= 9_995  # 0.02 collisions are expected of 31 random bits
    names = {seeding.derive(r, f"name {n}") for r in range(10) for n in range(100)}
    assert len(names | episodes) >= 10_990
    assert all(0 <= seed < 2**31 and type(seed) is int for seed in names | episodes)
    spread = np.histogram(list(episodes), bins=16, range=(0, 2**31))[0]
    assert spread.min() > 450  # 625 expected, standard deviation 24


def test_named_generators_are_independent_and_travel_as_json():
    a, b = seeding.generator(0, "replay"), seeding.generator(0, "policy")
    assert a.random() != b.random()
    a.standard_normal(3)
    a.integers(0, 10, dtype=np.uint32)  # leaves half a draw behind
    state = json.loads(json.dumps(seeding.generator_state(a)))
    expected = (a.integers(0, 10, 5, dtype=np.uint32).tolist(), a.random())
    other = seeding.generator(1, "other")
    seeding.restore_generator(other, state)
    assert (other.integers(0, 10, 5, dtype=np.uint32).tolist(), other.random()) == expected
    with pytest.raises(CheckpointError, match="not the state of a PCG64"):
        seeding.restore_generator(other, {"tensors": {}, "json": {"bit_generator": "MT19937"}})


def test_capture_and_restore():
    seeding.seed_everything(1)
    draw()
    state = seeding.capture()
    json.dumps(state["json"])
    expected = [draw() for _ in range(5)]
    seeding.seed_everything(2)
    seeding.restore(state)
    assert [draw() for _ in range(5)] == expected


def test_forked_draws_from_its_seed_and_leaves_no_trace():
    seeding.seed_everything(3)
    expected = [draw(), draw()]
    seeding.seed_everything(3)
    found = [draw()]
    with seeding.forked(9):
        inside = draw()
        with seeding.forked(9):
            assert draw() == inside
        draw()
    found.append(draw())
    assert found == expected
    with seeding.forked(9):
        assert draw() == inside
    seeding.seed_everything(3)
    with pytest.raises(ZeroDivisionError), seeding.forked(9):
        draw()
        raise ZeroDivisionError
    assert [draw(), draw()] == expected


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_a_state_that_does_not_fit_changes_nothing(name):
    seeding.seed_everything(4)
    good = seeding.capture()
    expected = draw()
    seeding.restore(good)
    for tensors in (
        {key: value for key, value in good["tensors"].items() if key != name},
        good["tensors"] | {name: good["tensors"][name][:-1]},
        good["tensors"] | {name: good["tensors"][name].float()},
        good["tensors"] | {"more": torch.zeros(1)},
    ):
        with pytest.raises(CheckpointError):
            seeding.restore({"tensors": tensors, "json": good["json"]})
    for numbers in ({}, {"python": {}}, good["json"] | {"numpy": {"position": "x"}}):
        with pytest.raises(CheckpointError, match="not a random state"):
            seeding.restore({"tensors": good["tensors"], "json": numbers})
    assert draw() == expected


def test_the_state_of_mps_travels_where_there_is_one(monkeypatch):
    """With a stand-in for the device: no test machine has one."""
    state = torch.arange(8, dtype=torch.uint8)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state.clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", state.copy_)
    before = seeding.capture()
    state.zero_()
    seeding.restore(before)
    assert state.tolist() == list(range(8))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    state.zero_()
    seeding.restore(before)  # a machine without it takes the rest
    assert not state.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generators_come_back():
    device = torch.device("cuda")
    torch.rand(1, device=device)
    state = seeding.capture()
    expected = torch.rand(3, device=device)
    with seeding.forked(1):
        assert not torch.equal(torch.rand(3, device=device), expected)
    seeding.restore(state)
    assert torch.equal(torch.rand(3, device=device), expected)
