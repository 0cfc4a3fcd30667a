"""Two processes that train one agent: what has to be equal in both is, and what one of them finds out both do."""

import math
from dataclasses import replace

import pytest
import torch

from agents import learner as learner_module
from agents.acquisition import build_bonus
from agents.actor_critic import ActorCritic
from agents.launched import Place, place
from agents.learner import Learner
from agents.log import Logger
from agents.options import AcquisitionOptions, ActorCriticOptions, LearnerOptions, TrainOptions
from agents.ranks import ALONE, Ranks, connect
from agents.shares import ALIKE, OWN, join_parts, share
from agents.trainer import Trainer
from envs.vector import VectorEnv
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options, window
from tests.learning.tools import TINY
from tests.processes import in_each
from worldmodels.errors import CheckpointError, ConfigError, WorldModelsError
from worldmodels.types import Batch

OPTIONS = TrainOptions(
    agent=ActorCriticOptions(horizon=3, starts=8, hidden=8, layers=1, bins=21, clip=1e9),
    train=LearnerOptions(clip=1e9, max_skipped_updates=99),
)


def make_learner(kind="gaussian", ranks=ALONE):
    """The same learner in every process: its gradients are kept in `learner.seen` instead of being used."""
    torch.manual_seed(3)
    model = small_model(small_options(kind), OBS["vector"], ACTIONS["continuous"])
    policy = ActorCritic(model.features_size, ACTIONS["continuous"], OPTIONS.agent)
    with torch.no_grad():  # rewards and values of some size, so that range and scale matter
        for net, size in ((model.reward.net, 1e-6), (policy.critic.net, 0.1)):
            for parameter in net[-1].parameters():
                parameter.add_(size * torch.randn(parameter.shape))
        policy.slow_critic.load_state_dict(policy.critic.state_dict())
    return Learner(model, policy, OPTIONS, ranks=ranks)


def keep_gradients(learner):
    """Replace the steps of all optimisers: name of a parameter -> the gradient that would have been used."""
    seen = {}
    for optimizer in (learner.model_optimizer, learner.actor_optimizer, learner.critic_optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def step(parameters=parameters):
            seen.update({id(p): p.grad.clone() for p in parameters if p.grad is not None})

        optimizer.step = step
    named = [*learner.world_model.named_parameters(prefix="model"), *learner.policy.named_parameters(prefix="policy")]
    return lambda: {name: seen[id(p)].clone() for name, p in named if id(p) in seen}


def no_chance(monkeypatch):
    """Noise that is a function of what it is added to: the same for a row, whatever batch it is in."""
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: torch.sin(10 * x.detach()))
    monkeypatch.setattr(torch, "rand_like", lambda x, **_: torch.sin(10 * x.detach()).abs())
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.4))
    monkeypatch.setattr(learner_module, "choose_starts", lambda states, batch, count: states.flatten())


def uneven():
    """Four windows of 6 transitions: the first two have far fewer real ones than the others."""
    batch = window(OBS["vector"], ACTIONS["continuous"], ends=(0, 1, None, 4), first=(True, False, True, False))
    batch.obs_mask[0, 3:] = False
    batch.mask[0, 2:] = False
    return batch


def rows(batch, which):
    parts = {k: {n: v[which] for n, v in x.items()} if isinstance(x, dict) else x[which]
             for k, x in vars(batch).items() if x is not None}  # fmt: skip
    return Batch(**parts)


def test_collectives(tmp_path):
    def work(ranks):
        own = ranks.rank + 1.0
        means = ranks.mean([torch.full((2, 3), own), torch.tensor(10 * own)])
        gathered = ranks.gather(torch.arange(own * 2).view(-1, 2))
        shares = ranks.shares(torch.tensor([3, 0, 0]) if ranks.first else torch.tensor([1, 4, 0]))
        weighed = ranks.weigh(torch.tensor(2.0), torch.arange(4) < 3 - 2 * ranks.rank)
        return {
            "means": [mean.tolist() for mean in means],
            "sums": [float(x) for x in ranks.sums(torch.tensor(own), torch.tensor(0.5))],
            "totals": ranks.totals(2, ranks.rank),
            "gathered": gathered.tolist(),
            "flags": ranks.gather(torch.tensor([ranks.first])).tolist(),
            "bytes": ranks.gather_bytes(b"x" * (ranks.rank * 3)),
            "decided": (ranks.decided(yes=ranks.first), ranks.decided(yes=not ranks.first)),
            "shares": shares.tolist(),
            "weighed": float(weighed),
        }

    one, two = in_each(work, tmp_path / "log")
    assert one.pop("shares") == [1.5, 0.0, 1.0] and two.pop("shares") == [0.5, 2.0, 1.0]
    assert one.pop("weighed") == 3.0 and two.pop("weighed") == 1.0
    assert one == two == {
        "means": [[[1.5] * 3] * 2, 15.0],
        "sums": [3.0, 1.0],
        "totals": [4, 1],
        "gathered": [[0.0, 1.0], [0.0, 1.0], [2.0, 3.0]],
        "flags": [True, False],
        "bytes": [b"", b"xxx"],
        "decided": (True, False),
    }  # fmt: skip


def test_alone_nothing_is_touched():
    tensor, mask = torch.ones(2), torch.ones(2, dtype=torch.bool)
    assert ALONE.mean([tensor])[0] is tensor and ALONE.gather(tensor) is tensor and ALONE.weigh(tensor, mask) is tensor
    assert ALONE.sums(tensor)[0] is tensor and ALONE.totals(3) == (3,) and ALONE.gather_bytes(b"a") == [b"a"]
    assert share(OPTIONS, ALONE) is OPTIONS
    with connect(place({}), "cuda:7") as ranks:
        assert ranks is ALONE


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_batch_that_is_split_over_two_processes_has_the_gradient_of_the_whole(kind, tmp_path, monkeypatch):
    no_chance(monkeypatch)

    def work(ranks):
        learner = make_learner(kind, ranks)
        batch = uneven() if ranks.count == 1 else rows(uneven(), slice(2 * ranks.rank, 2 * ranks.rank + 2))
        gradients = keep_gradients(learner)
        states, _ = learner.update_model(batch)
        learner.update_policy(states, batch)
        assert learner.fault is None, learner.fault
        return gradients() | {"range": learner.policy.return_range, "scale": learner.policy.critic.scale}

    whole = work(ALONE)
    assert whole["range"] > 1 and whole["scale"] > 101
    halves = in_each(lambda ranks: {name: value.tolist() for name, value in work(ranks).items()}, tmp_path / "log")
    assert len(whole) > 30 and set(halves[0]) == set(whole)
    for name, value in whole.items():
        assert halves[0][name] == halves[1][name], name  # to the bit
        torch.testing.assert_close(torch.tensor(halves[0][name]), value, rtol=2e-4, atol=1e-6, msg=name)
    assert max(float(value.abs().max()) for value in whole.values()) > 1e-2


def test_without_weights_an_uneven_split_would_have_another_gradient(tmp_path, monkeypatch):
    """The counts of the two halves differ so much that the test above sees a mean of means."""
    no_chance(monkeypatch)
    monkeypatch.setattr(learner_module, "_shared_loss", lambda output, *_: output.total)

    def work(ranks):
        learner = make_learner(ranks=ranks)
        batch = uneven() if ranks.count == 1 else rows(uneven(), slice(2 * ranks.rank, 2 * ranks.rank + 2))
        gradients = keep_gradients(learner)
        learner.update_model(batch)
        return {name: value.tolist() for name, value in gradients().items()}

    whole, (half, _) = work(ALONE), in_each(work, tmp_path / "log")
    assert any(
        not torch.allclose(torch.tensor(half[name]), torch.tensor(whole[name]), rtol=1e-2, atol=1e-6) for name in whole
    )


def test_parameters_stay_the_same_to_the_bit_though_the_data_differ(tmp_path):
    def work(ranks):
        learner = make_learner(ranks=ranks)
        torch.manual_seed(ranks.rank)
        for seed in range(4):
            learner.update(window(OBS["vector"], ACTIONS["continuous"], seed=10 * ranks.rank + seed))
        state = {**learner.world_model.state_dict(prefix="model."), **learner.policy.state_dict(prefix="policy.")}
        return {name: value.tolist() for name, value in state.items()}, torch.rand(()).item()

    (one, drawn), (two, other) = in_each(work, tmp_path / "log")
    assert one == two and drawn != other
    fresh = make_learner().world_model.state_dict(prefix="model.")
    assert any(one[name] != value.tolist() for name, value in fresh.items())


@pytest.mark.parametrize("what", ["model", "policy"])
def test_what_is_not_finite_in_one_process_is_skipped_by_both(what, tmp_path):
    def work(ranks):
        learner = make_learner(ranks=ranks)
        batch = window(OBS["vector"], ACTIONS["continuous"], seed=ranks.rank)
        learner.update(batch)
        before = {k: v.clone() for k, v in learner.policy.state_dict().items()}
        if what == "model":
            if not ranks.first:
                batch.reward[0, 0] = math.nan
            states, _ = learner.update_model(batch)
        else:
            states, _ = learner.update_model(batch)
            assert learner.fault is None
            if not ranks.first:
                states.z[...] = math.inf
            learner.update_policy(states, batch)
        same = all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items())
        return learner.fault, same, {k: v.tolist() for k, v in learner.world_model.state_dict().items()}

    (first, kept, one), (second, kept_too, two) = in_each(work, tmp_path / "log")
    assert first is not None and second is not None and kept and kept_too and one == two
    assert "gradient of" in first or "loss" in first
    assert second.startswith("reward: 1 of" if what == "model" else "states: ")


def test_processes_begin_with_the_same_parameters_and_random_numbers_of_their_own(tmp_path):
    def work(ranks):
        with VectorEnv(TINY.env, 1) as envs, Logger(tmp_path, on=False) as log:
            trainer = Trainer(replace(TINY, seed=5), tmp_path, envs, log, ranks)
            parameters = [p.tolist() for p in trainer.agent.policy.parameters()]
            trainer.collector.step(random=True)
            obs = next(trainer.replay.iter_episodes())["obs"]["obs"][0].tolist()
            draws = torch.rand(()).item(), trainer.replay_rng.random(), trainer.collect_rng.random()
            return parameters, (obs, *draws)

    alone, ((first, mine), (second, yours)) = work(ALONE), in_each(work, tmp_path / "log")
    assert first == second == alone[0] and mine == alone[1]
    assert all(one != two for one, two in zip(mine, yours, strict=True))


def test_the_places_that_a_task_aware_bonus_looks_at_are_those_of_all_processes(tmp_path):
    def work(ranks):
        torch.manual_seed(3)
        model = small_model(obs=OBS["vector"], action=ACTIONS["continuous"])
        bonus = build_bonus(AcquisitionOptions(name="task_aware"), model)
        assert bonus is not None
        start = model.dream_start(8)
        torch.manual_seed(ranks.rank)
        bonus.refresh(model, lambda features: torch.zeros(len(features), 2), start, ranks)
        return [tuple(place) for place in bonus.acquisition.points.tolist()]

    alone, (one, two) = work(ALONE), in_each(work, tmp_path / "log")
    assert one == two and len(one) == len(alone) and 0 < len(set(one) & set(alone)) < len(set(one))


@pytest.mark.parametrize("different", ["policy", "bonus"])
def test_nothing_is_saved_where_what_has_to_be_alike_is_not(different, tmp_path):
    def work(ranks):
        parts = {name: {"tensors": {"x": torch.zeros(2)}, "json": {}} for name in (*ALIKE, *OWN)}
        parts |= {name: {"tensors": {}, "json": {"of": [ranks.rank]}} for name in ("replay", "collector")}
        joined, _ = join_parts(parts, [], ranks)
        parts[different] = {"tensors": {"x": torch.full((2,), float(ranks.rank))}, "json": {}}
        try:
            join_parts(parts, [], ranks)
        except CheckpointError as error:
            return joined["replay"]["json"], str(error)
        return joined["replay"]["json"], None

    assert in_each(work, tmp_path / "log") == [
        ({"of": [0, 1]}, "process 1 has other parameters than process 0: nothing is saved"),
        ({"of": [1]}, None),
    ]


def test_a_process_that_is_gone_is_told_in_one_line(tmp_path):
    def work(ranks):
        if ranks.first:
            return None
        try:
            ranks.wait()
        except WorldModelsError as error:
            return str(error)

    _, said = in_each(work, tmp_path / "log")
    assert said.startswith("one of the 2 processes of this run has ended") and "\n" not in said


def test_an_error_of_this_process_is_not_told_as_that_of_another(tmp_path):
    def work(ranks):
        try:
            ranks.gather(torch.zeros(3, dtype=torch.uint16))  # which gloo does not know
        except Exception as error:
            return isinstance(error, WorldModelsError), isinstance(error, RuntimeError)

    assert in_each(work, tmp_path / "log") == [(False, True)] * 2


def test_what_is_shared_is_divided_and_what_cannot_be_is_refused():
    two = Ranks(Place(1, 2, 2), torch.device("cpu"))
    options = share(replace(OPTIONS, replay=replace(OPTIONS.replay, batch=6, capacity=1001)), two)
    assert (options.replay.batch, options.replay.capacity, options.agent.starts) == (3, 500, 4)
    for wrong, message in (
        (replace(OPTIONS, replay=replace(OPTIONS.replay, batch=5)), "replay.batch: expected a multiple of the 2 proc"),
        (replace(OPTIONS, agent=replace(OPTIONS.agent, starts=7)), "agent.starts: expected a multiple of the 2 proc"),
        (replace(OPTIONS, agent=replace(OPTIONS.agent, name="sb3")), "agent=sb3 learns in one process"),
    ):
        with pytest.raises(ConfigError, match=message):
            share(wrong, two)
    with pytest.raises(ConfigError, match="each of 2 processes takes its own"), connect(Place(0, 2, 2), "cuda:1"):
        pass


def test_torchrun_is_known_by_its_environment():
    names = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    assert place(names) == Place(3, 4, 2)
    assert place({"RANK": "3", "WORLD_SIZE": "4"}) == Place()  # somebody else's variables
