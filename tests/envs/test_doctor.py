"""The doctor: each disease is named in its own words, and the healthy are told so."""

import re
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.doctor import examine
from envs.options import EnvOptions
from envs.toy import Probe


class Patient(Probe):
    """Healthy: the observation is a position, the action moves it, chance comes from np_random alone."""

    limit = 20

    def __init__(self) -> None:
        super().__init__(size=2)
        self.position, self.episodes = 0.0, 0

    def reset(self, *, seed=None, options=None) -> Any:
        super().reset(seed=seed)
        self.episodes += 1
        self.position = float(self.np_random.uniform(-0.5, 0.5))
        return self.observe(), {}

    def observe(self) -> Any:
        return np.array([self.position, self.time / self.limit], np.float32)

    def step(self, action) -> Any:
        self.time += 1
        self.position = float(np.clip(self.position + 0.02 * (2 * int(action) - 1) + self.noise(), -1, 1))
        return self.observe(), self.position, *self.ends(), {}

    def noise(self) -> float:
        return 0.005 * float(self.np_random.normal())

    def ends(self) -> tuple[bool, bool]:
        return abs(self.position) > 0.9, self.time == self.limit


class Unseeded(Patient):
    def reset(self, *, seed=None, options=None) -> Any:
        super().reset()
        return self.observe(), {}


class Remembers(Patient):
    def reset(self, *, seed=None, options=None) -> Any:
        super().reset(seed=seed)
        self.position += 0.001 * self.episodes
        return self.observe(), {}


class OwnChance(Patient):
    def noise(self) -> float:
        return 0.005 * float(np.random.default_rng().normal())


class LimitIsDeath(Patient):
    def ends(self) -> tuple[bool, bool]:
        return self.time == self.limit, False


class Endless(Patient):
    limit = 10**6

    def ends(self) -> tuple[bool, bool]:
        return False, False


class Deaf(Patient):
    def step(self, action) -> Any:
        return super().step(1)


class Same(Patient):
    def noise(self) -> float:
        return 0.0

    def reset(self, *, seed=None, options=None) -> Any:
        super().reset(seed=seed)
        self.position = 0.0
        return self.observe(), {}


class FloatImage(Patient):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 1, (12, 12, 3), np.float32)

    def observe(self) -> Any:
        return np.full((12, 12, 3), abs(self.position), np.float32)


class DarkImage(FloatImage):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (12, 12, 3), np.uint8)

    def observe(self) -> Any:
        return super().observe().round().astype(np.uint8)


class NothingToLearn(Patient):
    def step(self, action) -> Any:
        obs, _, _, _, info = super().step(action)
        return obs, -1.0, False, self.time == self.limit, info


class Stingy(Patient):
    def step(self, action) -> Any:
        obs, _, *rest = super().step(action)
        return obs, 0.0, *rest


class Hangs(Patient):
    def step(self, action) -> Any:
        if self.time == 3:
            threading.Event().wait()
        return super().step(action)


class Wide(Patient):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1e6, 1e6, (1,), np.float32)

    def step(self, action) -> Any:
        return super().step(action[0] > 0)


def diagnosis(cls, **changes):
    """(level, topic) -> text of everything that is found."""
    name = f"Patient{cls.__name__}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=cls)
    checkup = examine(EnvOptions(id=name), steps=300, timeout_s=2.0, **changes)
    return {(finding.level, finding.topic): finding.text for finding in checkup.findings}


def test_the_healthy_are_told_so():
    found = diagnosis(Patient)
    assert {level for level, _ in found} == {"ok"}
    topics = {"spaces", "contract", "dtypes", "seeding", "determinism", "ends", "actions", "observation scale"}
    assert {topic for _, topic in found} == topics | {"rewards", "step time"}
    assert "obs vector (2,)" in found["ok", "spaces"] and "truncated" in found["ok", "ends"]


@pytest.mark.parametrize(
    ("cls", "level", "topic", "words"),
    [
        (Unseeded, "wrong", "seeding", "two copies a different observation 'obs': call super"),
        (Remembers, "wrong", "seeding", "after other episodes gave a different observation 'obs'"),
        (Same, "note", "seeding", "every episode begins with the same observation"),
        (OwnChance, "wrong", "determinism", "another observation 'obs' at step 1: draw all chance from self.np_random"),
        (LimitIsDeath, "wrong", "time limit", "lasted 20 steps exactly: a time limit is truncated"),
        (Endless, "wrong", "ends", "no episode ended within 300 steps; give it a time limit"),
        (Deaf, "note", "actions", "these did what the first did: choice 1"),
        (FloatImage, "wrong", "images", "obs looks like an image but is float32.*432 separate numbers"),
        (DarkImage, "wrong", "observation scale", "only 0 and 1"),
        (NothingToLearn, "wrong", "rewards", "always -1, and no episode terminates"),
        (Stingy, "note", "rewards", "random play earned nothing"),
        (Hangs, "wrong", "contract", r"step\(\) did not return within 2 s"),
        (Wide, "note", "action scaling", "very wide"),
    ],
)  # fmt: skip
def test_each_disease_is_named(cls, level, topic, words):
    found = diagnosis(cls)
    assert re.search(words, found.get((level, topic), "")), found


@pytest.mark.parametrize(
    ("fault", "level", "topic", "words"),
    [
        ("raises", "wrong", "contract", "the simulator broke at step 3"),
        ("nan_reward", "wrong", "contract", "reward nan"),
        ("wrong_shape", "wrong", "contract", r"shape (5,), declared (4,)"),
        ("four_tuple", "wrong", "contract", "a tuple of 4"),
        ("list_obs", "note", "dtypes", "list of float64 cast to the declared float32"),
        ("out_of_bounds", "wrong", "bounds", "1000001.0 at obs[3]"),
        ("reuses_array", "note", "aliasing", "the same array again and again"),
        ("none", "wrong", "time limit", "lasted 10 steps exactly"),
    ],
)
def test_faulty_environments_are_named(fault, level, topic, words):
    checkup = examine(EnvOptions(id="worldmodels/Faulty-v0", kwargs={"fault": fault}), steps=60)
    found = {(finding.level, finding.topic): finding.text for finding in checkup.findings}
    assert words in found[level, topic]
    assert checkup.wrong >= (level == "wrong")
    assert (checkup.play is None) == (topic == "contract")


def test_what_cannot_be_made_is_said():
    checkup = examine(EnvOptions(id="Nowhere-v0"))
    assert [(finding.level, finding.topic) for finding in checkup.findings] == [("wrong", "construction")]
    assert checkup.env is None
