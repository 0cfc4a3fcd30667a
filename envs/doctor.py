"""What is wrong with an environment, in plain words: it is played at random under the guard, repeated and compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces

from envs import trial
from envs.guard import Guard
from envs.make import make_env
from envs.options import EnvOptions
from envs.trial import Play
from worldmodels.errors import EnvironmentFault
from worldmodels.specs import in_words

STEPS = 1_000
"""Random steps of an examination."""
TIMEOUT_S = 30.0
REPEATED = 50
"""Steps of the episode that is repeated."""
HELD = 20
"""Steps for which each action is held to see whether it matters."""
SLOW_S = 0.01
LARGE_REWARD = 1_000.0
SMALL_SPREAD = 1e-6

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: `ok`, `note` (works, worth knowing) or `wrong` (mend it first)."""

    level: Level
    topic: str
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.level:<6}{self.topic:<20}{self.text}"


@dataclass(frozen=True)
class Checkup:
    """What was found; `play` and `env` are None where it could not be played to the end."""

    findings: list[Finding]
    play: Play | None = None
    env: Guard | None = None

    @property
    def wrong(self) -> int:
        """How many things must be mended."""
        return sum(finding.level == "wrong" for finding in self.findings)


def examine(options: EnvOptions, *, steps: int = STEPS, seed: int = 0, timeout_s: float = TIMEOUT_S) -> Checkup:
    """Try an environment out: spaces, contract, dtypes, seeding, ends, actions, observations, rewards, step time.

    steps: random steps to play. seed: episode k is reset with seed + k. timeout_s: for each call of the environment.
    """
    try:
        with trial.deadline(4 * timeout_s, f"{options.id}: making it"):
            env = make_env(options)
    except EnvironmentFault as error:
        return Checkup([Finding("wrong", "construction", str(error))])
    findings = [_spaces(env)]
    seen, fault = trial.play(env, steps=steps, seed=seed, timeout_s=timeout_s)
    if fault is not None:
        return Checkup([*findings, Finding("wrong", "contract", str(fault))])
    findings += [Finding("ok", "contract", f"{len(seen.rewards):,} random steps, every return value as it should be")]
    findings += [*_dtypes(env, seen), *_repetition(options, env, seen, seed), *_ends(env, seen)]
    findings += [*_actions(env, seed), *_observations(env, seen), *_rewards(seen), *_times(seen)]
    return Checkup(findings, seen, env)


def _spaces(env: Guard) -> Finding:
    obs, actions = in_words(env.obs_specs), in_words(env.action_spec)
    return Finding("ok", "spaces", f"observations: {obs}; actions: {actions}")


def _dtypes(env: Guard, seen: Play) -> Iterator[Finding]:
    for text in env.notes:
        yield Finding("note", "dtypes", f"{text}; return what observation_space declares")
    for text in seen.warned:
        yield Finding("wrong", "bounds", text)
    if trial.hands_out_one_array(env, 0):
        yield Finding("note", "aliasing", "step() returns the same array again and again; the guard copies it")
    if not env.notes and not seen.warned:
        yield Finding("ok", "dtypes", "values are of the declared dtypes and within the declared bounds")
    for name, leaf in _leaves(env.env.observation_space):
        if isinstance(leaf, spaces.Box) and len(leaf.shape) == 3 and leaf.dtype is not None and leaf.dtype.kind == "f":
            yield Finding(
                "wrong", "images", f"{name} looks like an image but is {leaf.dtype}: return uint8 from 0 to 255, else "
                f"it is {np.prod(leaf.shape):,} separate numbers",
            )  # fmt: skip


def _repetition(options: EnvOptions, env: Guard, seen: Play, seed: int) -> Iterator[Finding]:
    """One episode in two fresh copies, and in the one that has been played: only seed and actions may decide."""
    actions = seen.actions[:REPEATED]
    fresh = make_env(options), make_env(options)
    try:
        one, two = (trial.trace(copy, seed, actions) for copy in fresh)
    finally:
        for copy in fresh:
            copy.close()
    copies = trial.first_difference(one, two)
    played = trial.first_difference(one, trial.trace(env, seed, actions))
    if copies is not None and copies[0] == 0:
        text = (
            f"reset(seed={seed}) gave two copies a different {copies[1]}: call super().reset(seed=seed) and draw from "
        )
        yield Finding("wrong", "seeding", text + "self.np_random alone")
    elif played is not None and played[0] == 0:
        text = f"reset(seed={seed}) after other episodes gave a different {played[1]}: something of them is left over"
        yield Finding("wrong", "seeding", text)
    elif len(seen.firsts) > 1 and all(_same(seen.firsts[0], first) for first in seen.firsts[1:]):
        yield Finding("note", "seeding", "every episode begins with the same observation, whatever the seed")
    else:
        yield Finding("ok", "seeding", "the seed alone decides how an episode begins")
    late = copies or played
    if late is None:
        yield Finding("ok", "determinism", f"same seed, same actions, same {len(one) - 1} steps, in three copies")
    elif late[0] > 0:
        text = (
            f"same seed and actions, but another {late[1]} at step {late[0]}: draw all chance from self.np_random, or "
        )
        yield Finding("wrong", "determinism", text + "a run can be neither repeated nor resumed exactly")


def _ends(env: Guard, seen: Play) -> Iterator[Finding]:
    died = [length for length, terminated, _ in seen.ends if terminated]
    timed = [length for length, terminated, truncated in seen.ends if truncated and not terminated]
    limit = env.spec.max_episode_steps if env.spec is not None else None
    if not seen.ends:
        text = f"no episode ended within {len(seen.rewards):,} steps"
        level: Level = "note" if limit else "wrong"
        remedy = f"its time limit is {limit:,}" if limit else "give it a time limit, env.max_episode_steps=N"
        yield Finding(level, "ends", f"{text}; {remedy}")
        return
    yield Finding(
        "ok", "ends", f"{len(seen.ends)} episodes of {min(length for length, *_ in seen.ends)} to "
        f"{max(length for length, *_ in seen.ends)} steps: {len(died)} terminated, {len(timed)} truncated",
    )  # fmt: skip
    if len(died) > 2 and len(set(died)) == 1 and died[0] > 1:
        yield Finding(
            "wrong", "time limit", f"every terminated episode lasted {died[0]:,} steps exactly: a time limit is "
            "truncated, not terminated, or the agent learns that the world ends there",
        )  # fmt: skip


def _actions(env: Guard, seed: int) -> Iterator[Finding]:
    """Does each choice, or each end of each dimension, lead somewhere else than the first?"""
    space = env.action_space
    if isinstance(space, spaces.Box):
        low, high = float(np.min(space.low)), float(np.max(space.high))
        yield Finding("ok", "action scaling", f"[-1, 1] is mapped to the declared {low:g} to {high:g}")
        if high - low > 1e4:
            text = f"the declared range {low:g} to {high:g} is very wide: declare what really makes a difference"
            yield Finding("note", "action scaling", text)
    reference, idle = None, []
    for name, action in trial.extreme_actions(env):
        found = trial.trace(env, seed, [action] * HELD)
        if reference is None:
            reference = found
        elif trial.first_difference(reference, found) is None:
            idle.append(name)
    if idle:
        text = f"held for {HELD} steps these did what the first did: {', '.join(idle[:6])}"
        yield Finding("note", "actions", text)
    else:
        yield Finding("ok", "actions", "every action makes a difference")


def _observations(env: Guard, seen: Play) -> Iterator[Finding]:
    for name, spec in env.obs_specs.items():
        values = np.stack(seen.obs[name])
        flat = values.reshape(len(values), -1).astype(np.float64)
        spread = flat.std(0)
        if spec.kind == "image":
            if values.max() <= 1:
                yield Finding("wrong", "observation scale", f"{name} has only 0 and 1: scale to 0 to 255")
                continue
            yield Finding("ok", "observation scale", f"{name}: pixels from {values.min()} to {values.max()}")
            continue
        still = np.flatnonzero(spread < SMALL_SPREAD)
        if len(still):
            text = f"{name}: {len(still)} of {flat.shape[1]} numbers never changed (first: number {still[0]})"
            yield Finding("note", "observation scale", text)
        if spec.kind == "vector":
            text = (
                f"{name}: from {flat.min():.3g} to {flat.max():.3g}, spreads {spread.min():.2g} to {spread.max():.2g}; "
            )
            yield Finding("ok", "observation scale", text + "the model standardises")


def _rewards(seen: Play) -> Iterator[Finding]:
    rewards = np.asarray(seen.rewards)
    if (rewards == 0).all():
        yield Finding("note", "rewards", "random play earned nothing: exploration will have to find the reward")
    elif rewards.std() < SMALL_SPREAD and not any(terminated for _, terminated, _ in seen.ends):
        yield Finding(
            "wrong", "rewards", f"always {rewards[0]:g}, and no episode terminates: there is nothing to learn"
        )
    elif np.abs(rewards).max() > LARGE_REWARD:
        yield Finding(
            "note", "rewards", f"up to {np.abs(rewards).max():,.0f}; wrappers that scale it make learning easier"
        )
    else:
        yield Finding("ok", "rewards", f"from {rewards.min():.3g} to {rewards.max():.3g}, mean {rewards.mean():.3g}")


def _times(seen: Play) -> Iterator[Finding]:
    step, reset = float(np.median(seen.step_s)), float(np.median(seen.reset_s))
    text = f"a step takes {1e3 * step:.3g} ms, a reset {1e3 * reset:.3g} ms (medians)"
    slow = step > SLOW_S
    yield Finding(
        "note" if slow else "ok", "step time", text + ("; env.workers=N runs copies side by side" if slow else "")
    )


def _leaves(space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            for name, leaf in _leaves(inner):
                yield (key if name == "obs" else f"{key}/{name}"), leaf
    else:
        yield "obs", space


def _same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(value, two[name]) for name, value in one.items())
