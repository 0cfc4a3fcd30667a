"""Agent: it acts as its model and policy say, Stable-Baselines3 sees the same agent, and a saved one acts alike."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.agent import Agent, Carry
from agents.evaluate import evaluate
from envs.options import EnvOptions
from envs.plain import plain_space
from envs.vector import VectorEnv
from tests.contracts.tools import OBS
from tests.learning.tools import TINY, part_hash, tiny_run, train_tiny
from worldmodels.checkpoint import module_state
from worldmodels.errors import CheckpointError, ConfigError, EnvironmentFault
from worldmodels.specs import ActionSpec, ObsSpec


def make_agent(env="CartPole-v1", **changes):
    """An agent with weights that are not zero anywhere, so that its actions depend on what it sees."""
    options = replace(TINY, env=EnvOptions(id=env), **changes)
    with VectorEnv(options.env, 1) as envs:
        obs_specs, action_spec, own = envs.obs_specs, envs.action_spec, envs.spaces
    torch.manual_seed(0)
    agent = Agent(options, obs_specs, action_spec, spaces=own)
    return perturb(agent)


def perturb(agent):
    with torch.no_grad():
        for module in (agent.world_model, agent.policy):
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return agent


class Seeded(gymnasium.Wrapper):
    """Episode k is reset with seed + k, whatever the caller says: the episodes that `evaluate` plays."""

    def __init__(self, env, seed):
        super().__init__(env)
        self.next_seed = seed

    def reset(self, *, seed=None, options=None):
        self.next_seed += 1
        return self.env.reset(seed=self.next_seed - 1)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_stable_baselines_evaluates_the_same_agent_to_the_same_returns(env):
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    agent = make_agent(env)
    episodes = 6 if env == "CartPole-v1" else 2
    own = evaluate(agent, agent.env_options, episodes=episodes, seed=300, num_envs=1)
    monitored = Monitor(Seeded(gymnasium.make(env), 300))
    returns, lengths = evaluate_policy(agent, monitored, n_eval_episodes=episodes, return_episode_rewards=True)
    assert lengths == own.lengths and returns == pytest.approx(own.returns, rel=1e-5)
    assert len(set(own.returns)) > 1


def test_acting_step_by_step_follows_the_model_and_the_averaged_actor():
    agent = make_agent()
    rng = np.random.default_rng(0)
    carry, state, before = agent.initial_carry(3), None, None
    for t in range(5):
        obs = {"obs": rng.normal(size=(3, 4)).astype(np.float32)}
        first = np.array([t == 0, t in (0, 2), t == 0])
        action, carry = agent.act(obs, carry, first, deterministic=True)
        state = agent.world_model.filter(
            state, before, {"obs": torch.from_numpy(obs["obs"])}, torch.from_numpy(first), sample=False
        )
        before = agent.policy.average_actor.mode(state.features)
        assert np.array_equal(action, before.numpy()) and action.dtype == np.float32
        assert torch.equal(carry.state.features, state.features)


def test_exploration_samples_the_actor_that_learns_and_evaluation_takes_the_averaged_mode():
    agent = make_agent()
    with torch.no_grad():
        agent.policy.actor.net[-1].weight.zero_()
        agent.policy.actor.net[-1].bias.copy_(torch.tensor([50.0, 0.0]))
        agent.policy.average_actor.net[-1].weight.zero_()
        agent.policy.average_actor.net[-1].bias.copy_(torch.tensor([0.0, 0.1]))
    obs, first = {"obs": np.zeros((400, 4), np.float32)}, np.ones(400, bool)
    torch.manual_seed(0)
    explored, _ = agent.act(obs, agent.initial_carry(400), first, deterministic=False)
    judged, _ = agent.act(obs, agent.initial_carry(400), first, deterministic=True)
    assert explored[:, 0].mean() > 0.97 and explored[:, 1].sum() > 0  # the uniform share explores
    assert judged[:, 1].mean() == 1


def test_one_observation_and_a_batch_of_them_get_the_same_actions():
    agent = make_agent()
    obs = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    batch, _ = agent.predict(obs)
    assert batch.shape == (5,)
    for row in range(5):
        single, carry = agent.predict(obs[row])
        assert np.shape(single) == () and single == batch[row]
        again, _ = agent.predict(obs[row], carry, np.array([True]))
        assert again == single  # an episode start forgets


def test_memory_is_carried_between_calls_and_forgotten_at_an_episode_start():
    agent = make_agent()
    obs = np.random.default_rng(1).normal(size=(4, 2, 4)).astype(np.float32)
    _, one = agent.predict(obs[0])
    _, carried = agent.predict(obs[1], one, np.array([False, True]))
    _, fresh = agent.predict(obs[1], None)
    assert torch.equal(carried.state.features[1], fresh.state.features[1])
    assert not torch.equal(carried.state.features[0], fresh.state.features[0])


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((2, 7), np.float32), r"has shape \(7,\), expected \(4,\)"),
        (np.array([0, np.nan, 0, 0], np.float32), "is not finite"),
    ],
)
def test_wrong_observation_is_an_environment_fault(obs, message):
    with pytest.raises(EnvironmentFault, match=message):
        make_agent().predict(obs)


@pytest.mark.parametrize("kind", ["mixed", "rgb 17x23", "discrete", "multi_binary"])
def test_trap_act_encodes_as_training_does(kind):
    """The same observation, through act and through infer, after the standardiser was fitted."""
    specs = OBS[kind]
    torch.manual_seed(0)
    agent = perturb(Agent(TINY, specs, ActionSpec("discrete", (3,))))
    rng = np.random.default_rng(0)
    obs = {name: _random(spec, rng, 6) for name, spec in specs.items()}
    agent.world_model.fit_standardizer(
        {n: torch.from_numpy(50 * v + 9) for n, v in obs.items() if v.dtype == np.float32}
    )
    _, carry = agent.act(obs, agent.initial_carry(6), np.ones(6, bool), deterministic=True)
    tensors = {name: torch.from_numpy(value) for name, value in obs.items()}
    encoder = agent.world_model.encoder
    context, _ = agent.world_model.temporal_prior.initial(6)
    expected = agent.world_model.family.mode(encoder.posterior(encoder.tokens(tensors), context))
    assert torch.equal(carry.state.z, expected)


def _random(spec: ObsSpec, rng, n):
    if spec.kind == "vector":
        return rng.normal(size=(n, *spec.shape)).astype(np.float32)
    high = {"image": 256, "multi_binary": 2}.get(spec.kind) or spec.classes[0]
    return rng.integers(high, size=(n, *spec.shape)).astype(spec.dtype)


def test_saved_and_loaded_agent_acts_alike_and_cannot_be_trained_on(tmp_path):
    agent = make_agent()
    agent.train_steps = 77
    agent.save(tmp_path / "run")
    loaded = Agent.load(tmp_path / "run")
    assert loaded.train_steps == 77 and loaded.run == tmp_path / "run"
    for name in ("world_model", "policy"):
        assert part_hash(module_state(getattr(loaded, name))) == part_hash(module_state(getattr(agent, name)))
    options = agent.env_options
    one, two = (evaluate(a, options, episodes=3, seed=5, num_envs=2) for a in (agent, loaded))
    assert one.returns == two.returns
    with pytest.raises(CheckpointError, match="exists already"):
        agent.save(tmp_path / "run")
    with (
        pytest.raises(CheckpointError, match="it cannot be trained on"),
        tiny_run(tmp_path / "run") as (trainer, _),
    ):
        trainer.resume()


def test_best_and_latest_are_told_apart(tmp_path):
    from agents.experiment import prepare_run

    run = tmp_path / "run"
    prepare_run(replace(TINY, run=str(run)))
    with tiny_run(run) as (trainer, _):
        trainer.best = trainer.agent.acting_state(10, 5.0)  # as it began
        trainer.step = 90
        perturb(trainer.agent)
        trainer.save()
        latest = part_hash(module_state(trainer.agent.policy))
    best, last = Agent.load(run), Agent.load(run, which="latest")
    assert (best.train_steps, last.train_steps) == (10, 90)
    assert part_hash(module_state(last.policy)) == latest != part_hash(module_state(best.policy))
    with pytest.raises(ConfigError, match="expected 'best' or 'latest'"):
        Agent.load(run, which="newest")


def test_loading_draws_no_random_numbers(tmp_path):
    make_agent().save(tmp_path / "run")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Agent.load(tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_a_carry_is_state_and_action():
    assert Carry(None, None) == make_agent().initial_carry(4)


def test_predict_imports_no_module_that_only_a_run_folder_names(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    env = replace(TINY.env, id="evil_module:Evil-v0")
    agent = Agent(replace(TINY, env=env), {"obs": ObsSpec("vector", (4,))}, ActionSpec("discrete", (2,)))
    with pytest.raises(ConfigError, match="allow that by `import evil_module`"):
        agent.predict(np.zeros(4, np.float32))


def no_environment(*args, **kwargs):
    pytest.fail("an environment was made")


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_loaded_agent_needs_no_environment(env, tmp_path, monkeypatch):
    agent = make_agent(env)
    observation = gymnasium.make(env).reset(seed=3)[0]
    expected, _ = agent.predict(observation)
    agent.save(tmp_path / "run")
    monkeypatch.setattr("envs.make.make_env", no_environment)
    monkeypatch.setattr("gymnasium.make", no_environment)
    loaded = Agent.load(tmp_path / "run")
    assert np.array_equal(loaded.predict(observation)[0], expected)
    assert loaded.spaces() == agent.spaces()


def test_saved_spaces_of_other_sizes_are_refused():
    agent = make_agent()
    other = {"obs": plain_space(spaces.Box(-1, 1, (5,))), "action": plain_space(spaces.Discrete(2))}
    for plain in (other, {"obs": other["action"], "action": other["action"]}, {"obs": 3}):
        agent = Agent(agent.options, agent.obs_specs, agent.action_spec, spaces=plain)
        with pytest.raises(CheckpointError, match="saved spaces are not those|cannot be read back"):
            agent.predict(np.zeros(4, np.float32))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_decision_is_the_action_of_predict_its_probability_and_that_of_the_observation(env, tmp_path):
    agent = Agent.load(train_tiny(tmp_path / "run", f'env.id="{env}"'))
    own = gymnasium.make(env)
    obs, _ = own.reset(seed=0)
    state = carry = None
    values = []
    for _ in range(6):
        decided = agent.decide(obs, carry)
        action, state = agent.predict(obs, state)
        np.testing.assert_array_equal(decided.action, action)
        policy = agent.policy.average_actor(state.state.features)
        expected = policy.log_prob(torch.as_tensor(state.action)).exp().item()
        assert decided.probability == pytest.approx(expected, rel=1e-5) and decided.probability > 0
        values.append(decided.p_value)
        before, carry = carry, decided.state
        obs = own.step(action)[0]
    assert values[0] == 1.0 and 0.02 < np.median(values[1:]) <= 1, "nothing is expected at first; then all is ordinary"
    odd = agent.decide(obs + np.float32(3), carry)
    assert odd.p_value < 0.01 < agent.decide(obs, carry).p_value
    both = agent.decide(np.stack([obs, obs + np.float32(3)]), _twice(carry), np.array([True, False]))
    assert both.p_value[0] == 1.0 and both.p_value[1] == pytest.approx(odd.p_value, abs=1e-3)
    assert both.probability.shape == (2,) and before is not None


def _twice(carry):
    return Carry(carry.state.repeat(2), carry.action.repeat(2, 1))


def test_who_cannot_say_a_probability_or_what_is_ordinary_says_so():
    obs = np.zeros(4, np.float32)
    with pytest.raises(ConfigError, match="load the agent from its folder"):
        make_agent().decide(obs)
    with pytest.raises(ConfigError, match="agent=planner gives its actions no probability"):
        make_agent(agent=replace(TINY.agent, name="planner")).decide(obs)
