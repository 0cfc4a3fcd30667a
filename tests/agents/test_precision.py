"""bfloat16 against float32: the same update within the rounding of products; what is stored stays float32."""

from dataclasses import replace

import pytest
import torch

from agents.actor_critic import ActorCritic
from agents.learner import Learner, bfloat16_pays
from agents.options import LearnerOptions, TrainOptions
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options, window

FAMILIES = ("gaussian", "categorical")


def learner(posterior, precision):
    torch.manual_seed(0)
    options = TrainOptions(train=LearnerOptions(precision=precision))
    model = small_model(small_options(posterior, blocks=2))
    policy = ActorCritic(model.features_size, ACTIONS["discrete"], options.agent)
    return Learner(model, policy, options)


@pytest.mark.parametrize("posterior", FAMILIES)
def test_losses_in_bfloat16_are_those_in_float32_within_three_per_cent(posterior):
    bounds = []
    batch = window(OBS["vector"], ACTIONS["discrete"])
    for precision in ("float32", "bfloat16"):
        own = learner(posterior, precision)
        torch.manual_seed(1)
        states, metrics = own.update_model(batch)
        assert own.fault is None
        torch.manual_seed(2)
        metrics |= own.update_policy(states, batch)
        assert own.fault is None
        bounds.append({name: float(value) for name, value in metrics.items()})
        tensors = [*own.world_model.parameters(), *own.policy.parameters(), states.context, states.z]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        moments = [v for s in own.model_optimizer.state.values() for k, v in s.items() if k != "step"]
        assert {moment.dtype for moment in moments} == {torch.float32}
    exact, rounded = bounds
    for name in ("model/bound", "model/observation", "model/reward", "policy/critic_loss", "policy/entropy"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.03, abs=0.03), name
    assert rounded != exact


@pytest.mark.parametrize("posterior", FAMILIES)
def test_gradients_in_bfloat16_point_where_those_in_float32_do(posterior):
    batch, directions = window(OBS["vector"], ACTIONS["discrete"]), []
    for precision in ("float32", "bfloat16"):
        own = learner(posterior, precision)
        torch.manual_seed(1)
        with own.products():
            loss = own.world_model.loss(batch).total
        found = torch.autograd.grad(loss, list(own.world_model.parameters()), allow_unused=True)
        directions.append(torch.cat([g.flatten() for g in found if g is not None]))
    exact, rounded = directions
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.995
    assert rounded.norm() == pytest.approx(float(exact.norm()), rel=0.03) and not torch.equal(exact, rounded)


def test_auto_is_bfloat16_only_for_wide_models_on_machines_that_multiply_it():
    small = TrainOptions()
    model, agent = small.world_model, small.agent
    wide = replace(
        small,
        world_model=replace(model, trunk=replace(model.trunk, units=256)),
        agent=replace(agent, hidden=256),
    )
    cpu = torch.device("cpu")
    assert not bfloat16_pays(small, cpu)
    assert bfloat16_pays(wide, cpu) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert bfloat16_pays(wide, torch.device("cuda")) and not bfloat16_pays(wide, torch.device("mps"))
    for precision in ("float32", "bfloat16"):
        forced = replace(wide, train=LearnerOptions(precision=precision))
        assert bfloat16_pays(forced, torch.device("mps")) == (precision == "bfloat16")
