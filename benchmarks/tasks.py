"""The tasks of the sample-efficiency benchmark: what counts as solved, how long a run is, which seeds judge."""

from dataclasses import dataclass

FIVE_SEEDS = (200, 201, 202, 203, 204)
"""Seeds of the runs that are reported. No setting was ever chosen by looking at a run with one of them."""
THREE_SEEDS = FIVE_SEEDS[:3]
PENDULUM_SEEDS = (205, 206, 207, 208, 209)
"""Fresh ones: two runs of the seeds above were seen before the last change of Pendulum's settings."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the table.

    name: a preset of `configs/env`. bar: mean return that an evaluation has to reach. goal: median simulator steps in
    which we want to be there. every: simulator steps between evaluations. steps: length of our runs.
    seeds: of the runs. baseline: the algorithm of Stable-Baselines3 to compare with, a key of
    `benchmarks.baselines.SETTINGS`, or None. baseline_steps: simulator steps after which a baseline gives up; its
    schedules are laid out for these.
    """

    name: str
    bar: float
    goal: int
    every: int = 1_000
    steps: int
    seeds: tuple[int, ...] = THREE_SEEDS
    baseline: str | None = None
    baseline_steps: int = 0


TASKS = {
    task.name: task
    for task in (
        Task(
            name="cartpole",
            bar=475.0,  # gymnasium's own reward threshold
            goal=1_500,
            every=250,
            steps=10_000,
            seeds=FIVE_SEEDS,
            baseline="ppo-cartpole",
            baseline_steps=100_000,
        ),
        Task(
            name="pendulum",
            bar=-200.0,
            goal=500,
            every=250,
            steps=10_000,
            seeds=PENDULUM_SEEDS,
            baseline="sac-pendulum",
            baseline_steps=20_000,
        ),
        Task(
            name="cartpole-no-velocity",
            bar=475.0,
            goal=6_000,
            steps=20_000,
            baseline="recurrent-ppo-cartpole-no-velocity",
            baseline_steps=100_000,
        ),
        Task(
            name="dmc-cartpole-swingup",
            bar=800.0,
            goal=15_000,
            steps=50_000,
            baseline="sac-defaults",
            baseline_steps=100_000,
        ),
        Task(name="cartpole-pixels", bar=450.0, goal=10_000, steps=30_000),
    )
}
"""Name -> task, in the order of the table."""
