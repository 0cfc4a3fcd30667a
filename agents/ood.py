"""What an agent's alarms are worth: nominal and faulty episodes, scores of each step, AUROC, false alarms and delay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf, isnan
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.attack import Tamper
from agents.recordings import part
from envs import faults
from envs.guard import Guard
from envs.make import make_env
from envs.options import EnvOptions
from envs.physics import ChangedPhysics
from worldmodels.errors import EnvironmentFault
from worldmodels.monitor import Monitor, Scores
from worldmodels.seeding import forked
from worldmodels.types import Batch
from worldmodels.uncertainty.detection import detection_delay, threshold_at, time_matched

Wrap = Callable[[gymnasium.Env], gymnasium.Env]

FALSE_ALARMS = 1e-3
"""Share of nominal steps that may raise an alarm."""


@dataclass(frozen=True)
class Shift:
    """Something that goes wrong. wrap: puts it around an environment. onset: the first observation that it changes."""

    wrap: Wrap
    onset: int = 1


def sensor_shift(fault: faults.Fault, *, onset: int = 20, dimensions: Sequence[int] | None = None) -> Shift:
    """A sensor that lies from step `onset` on."""
    return Shift(lambda env: faults.SensorFault(env, fault, start=onset, dimensions=dimensions), onset)


def physics_shift(**factors: float) -> Shift:
    """Physics that is another one from the start: the first observation that it changes is the one after a reset's."""
    return Shift(lambda env: ChangedPhysics(env, **factors))


def collect(
    agent: Agent,
    env_options: EnvOptions | None = None,
    *,
    episodes: int,
    seed: int,
    steps: int = 200,
    wrap: Wrap | None = None,
    tamper: Tamper | None = None,
) -> tuple[Batch, Tensor]:
    """Whole episodes of the agent at work, at most `steps` long, as one padded batch, and their returns (B,).

    Args: env_options: another environment than the agent's own. episode k is reset with seed + k; wrap: what stands
        around the environment; tamper: changes what the agent sees, and what is recorded (`agents.attack`).
    """
    options = env_options or agent.env_options
    guards: list[Guard] = []
    try:
        for _ in range(episodes):
            guards.append(make_env(options))
            if wrap is not None:
                guards[-1] = Guard(wrap(guards[-1].env), options.id)
        with forked(seed):
            batch = _play(agent, guards, seed, steps, tamper)
    finally:
        for guard in guards:
            guard.close()
    return batch, batch.reward.sum(1)


def _play(agent: Agent, guards: Sequence[Guard], seed: int, steps: int, tamper: Tamper | None) -> Batch:
    """All episodes side by side, the agent acting in all of them at once; zero where one is over."""
    count = len(guards)
    lead = (count, steps + 1)
    obs = {name: np.zeros((*lead, *spec.shape), dtype=spec.dtype) for name, spec in agent.obs_specs.items()}
    action = np.zeros((count, steps, agent.action_spec.size), dtype=np.float32)
    reward = np.zeros((count, steps), dtype=np.float32)
    terminated, mask = np.zeros((count, steps), dtype=bool), np.zeros((count, steps), dtype=bool)
    obs_mask, is_first = np.zeros(lead, dtype=bool), np.zeros(lead, dtype=bool)
    is_first[:, 0] = obs_mask[:, 0] = True
    for i, guard in enumerate(guards):
        for name, value in guard.reset(seed=seed + i)[0].items():
            obs[name][i, 0] = value
    carry, open_ = agent.initial_carry(count), np.ones(count, dtype=bool)
    for t in range(steps):
        now = {name: value[:, t] for name, value in obs.items()}
        if tamper is not None:
            for name, value in tamper(now, carry, is_first[:, t]).items():
                obs[name][open_, t] = value[open_]
        chosen, carry = agent.act(now, carry, is_first[:, t], deterministic=True)
        for i in np.flatnonzero(open_).tolist():
            seen, reward[i, t], terminated[i, t], truncated, _ = guards[i].step(chosen[i])
            action[i, t], mask[i, t], obs_mask[i, t + 1] = chosen[i], True, True
            for name, value in seen.items():
                obs[name][i, t + 1] = value
            open_[i] = not (terminated[i, t] or truncated)
        if not open_.any():
            break
    arrays = (action, reward, terminated, np.zeros_like(terminated), mask, is_first, obs_mask)
    return Batch({name: torch.from_numpy(v) for name, v in obs.items()}, *map(torch.from_numpy, arrays))


def severe_shifts(
    agent: Agent, nominal: Batch, env_options: EnvOptions | None = None, *, onset: int = 20
) -> dict[str, Shift]:
    """The faults of the card: changed physics where the environment allows it, and each kind of faulty sensor.

    Offset, noise and miscalibration are of all sensors, in standard deviations of nominal data; the last sensor (a
    velocity in most environments) is dropped or frozen. Observations that are no single vector have no sensors here.
    env_options: another environment than the agent's own, whose constants are changed.
    """
    shifts: dict[str, Shift] = {}
    if [spec.kind for spec in agent.obs_specs.values()] == ["vector"]:
        values = next(iter(nominal.obs.values()))[nominal.obs_mask].double().numpy()
        spread, last = values.std(0), [values.shape[-1] - 1]
        shifts = {
            "offset": sensor_shift(lambda r: r.value + spread, onset=onset),
            "noise": sensor_shift(lambda r: r.value + spread * r.rng.standard_normal(r.value.shape), onset=onset),
            "dropped": sensor_shift(faults.drop(), onset=onset, dimensions=last),
            "frozen": sensor_shift(faults.freeze(), onset=onset, dimensions=last),
            "miscalibrated": sensor_shift(faults.miscalibration(1.5), onset=onset),
        }
    for name, factor in (("gravity", 2.0), ("mass", 1.5), ("action_gain", 1.5)):
        if _has_constant(env_options or agent.env_options, name):
            shifts[name] = physics_shift(**{name: factor})
    return shifts


def ood_card(
    agent: Agent,
    env_options: EnvOptions | None = None,
    *,
    shifts: Mapping[str, Shift] | None = None,
    nominal_episodes: int = 60,
    episodes: int = 20,
    steps: int = 200,
    seed: int = 50_000,
    fit_steps: int = 1000,
    by_score: bool = False,
) -> dict[str, Any]:
    """How well this agent's monitor raises an alarm: fault -> `auroc`, `fpr95`, `delay_steps`, as plain data.

    Nominal controls are other episodes, compared at the same steps; delay is the median over episodes at `FALSE_ALARMS`
    per nominal step, 1 at the first wrong observation, None where most episodes end without an alarm. None too stands
    where every episode is over before the fault begins. With `by_score` a key of that name holds AUROC and FPR at 95 %
    detection of each score by itself; the numbers of the fault are those of the largest of them, `combined`.

    Args: shifts: name -> what goes wrong; None takes `severe_shifts`. nominal_episodes: the monitor learns from half of
        them, a quarter sets its threshold, a quarter is the control. episodes: of each fault.
    """
    nominal, _ = collect(agent, env_options, episodes=nominal_episodes, seed=seed, steps=steps)
    half, quarter = nominal_episodes // 2, nominal_episodes // 4
    monitor = Monitor(agent.world_model).fit(part(nominal, slice(0, half)), steps=fit_steps)
    alarm = Alarm(monitor, part(nominal, slice(half, half + quarter)))
    control = alarm.scores(part(nominal, slice(half + quarter, None)))
    card: dict[str, Any] = {}
    for name, shift in (severe_shifts(agent, nominal, env_options) if shifts is None else shifts).items():
        faulty, _ = collect(
            agent, env_options, episodes=episodes, seed=seed + nominal_episodes, steps=steps, wrap=shift.wrap
        )
        found = alarm.scores(faulty)
        table = {
            score: {
                measure: None if isnan(number) else number
                for measure, number in zip(
                    ("auroc", "fpr95"), time_matched(control[score], after(value, shift.onset)), strict=True
                )
            }
            for score, value in found.items()
        }
        delay = detection_delay(found["combined"], alarm.threshold, onset=shift.onset).median().item() + 1
        card[name] = table["combined"] | {"delay_steps": None if delay == inf else delay}
        if by_score:
            card[name]["by_score"] = table
    return card


class Alarm:
    """A monitor whose scores nominal data put on one scale: 0 at the median, 1 at the threshold of false alarms.

    combined: the largest of them. threshold: of `combined`, at `FALSE_ALARMS` per nominal step, or at the smallest rate
    that the nominal data can set.
    """

    def __init__(self, monitor: Monitor, nominal: Batch) -> None:
        self.monitor = monitor
        self._scale: dict[str, tuple[float, float]] = {}
        for name, value in _named(monitor.scores(nominal)).items():
            present = value[~value.isnan()]
            middle, rate = present.median().item(), max(FALSE_ALARMS, 1 / (len(present) + 1))
            self._scale[name] = (middle, max(threshold_at(present, rate) - middle, 1e-9))
        self.nominal = self.scores(nominal)["combined"]
        self.nominal = self.nominal[~self.nominal.isnan()]
        self.threshold = threshold_at(self.nominal, max(FALSE_ALARMS, 1 / (len(self.nominal) + 1)))

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> scores (B, T+1) on the common scale, and `combined`; NaN where there is none."""
        named = _named(self.monitor.scores(batch))
        scaled = {name: (value - self._scale[name][0]) / self._scale[name][1] for name, value in named.items()}
        stacked = torch.stack(list(scaled.values()))
        combined = torch.nan_to_num(stacked, nan=-inf).amax(0)
        return scaled | {"combined": torch.where(stacked.isnan().any(0), torch.nan, combined)}


def after(scores: Tensor, onset: int) -> Tensor:
    """The scores (E, T) from step `onset` on; NaN before."""
    kept = scores.clone()
    kept[:, :onset] = torch.nan
    return kept


def _named(scores: Scores) -> dict[str, Tensor]:
    return {field.name: getattr(scores, field.name) for field in fields(scores)}


def _has_constant(env_options: EnvOptions, name: str) -> bool:
    """Whether `ChangedPhysics` knows this constant of the environment."""
    guard = make_env(env_options)
    try:
        ChangedPhysics(guard.env, **{name: 1.0})
    except EnvironmentFault:
        return False
    finally:
        guard.close()
    return True
