"""The loop: collect, update, evaluate, and at barriers save. One run, from its first second to its film."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.alarm import RewardAlarm
from agents.collector import Collector, Finished
from agents.data import fill
from agents.evaluate import EVALUATION_FILE, Evaluation, evaluate, kept_card, write_evaluation
from agents.learner import Learner, dump_batch
from agents.log import TRAIN_RETURN, Logger
from agents.options import TrainOptions
from agents.parts import parts_of, restore_parts
from agents.ranks import ALONE, Ranks
from agents.shares import join_parts, own_parts, prefix, purpose, share
from envs.vector import VectorEnv
from worldmodels import seeding
from worldmodels.checkpoint import load, module_state, restore_module, save
from worldmodels.errors import NonFiniteError
from worldmodels.memory import keep_freed_memory
from worldmodels.replay import Replay
from worldmodels.run_folder import SEGMENTS, never_saved
from worldmodels.states import State
from worldmodels.types import Batch
from worldmodels.uncertainty import IDENTICAL, member_difference

STANDARDIZING_IMAGES = 1_000
"""Images that are enough to know the mean of each pixel by."""
FINAL_SEED = 1_000_000
"""Added to `evaluation.seed` for the last evaluation, so that no episode that chose the agent judges it."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run at `step`; it resumes from the barrier at `barrier`."""

    def __init__(self, step: int, barrier: int) -> None:
        super().__init__()
        self.step, self.barrier = step, barrier


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves: the evaluation of the agent that was kept, and where things are."""

    evaluation: Evaluation
    run: Path


def train(
    options: TrainOptions, run: Path, *, resume: bool, logger: Logger, ranks: Ranks = ALONE
) -> TrainResult | None:
    """Train until `options.steps` and return the final evaluation; with `options.data` from that data alone.

    ranks: the processes that train together; what they share is divided among them. None in all but the first.

    Raises:
        Interrupted: a signal came; the run can be resumed.
        WorldModelsError: an environment, the disk or the numbers failed; the last barrier is intact.
    """
    torch.set_num_threads(options.train.threads)
    keep_freed_memory()
    options = share(options, ranks)
    with VectorEnv(options.env, options.env.num_envs) as envs:
        trainer = Trainer(options, run, envs, logger, ranks)
        try:
            if ranks.decided(yes=resume and not never_saved(run)):
                trainer.resume()
            else:
                if options.data is not None:
                    every = slice(ranks.rank, None, ranks.count)
                    trainer.notes(fill(trainer.replay, options.data, trainer.agent, every))
                trainer.begin(again=resume)
            trainer.notes([f"run folder: {run}" + (f" ({ranks.count} processes)" if ranks.count > 1 else "")])
            trainer.loop()
            return trainer.finish() if ranks.first else None
        except KeyboardInterrupt as error:
            raise Interrupted(trainer.step, trainer.barrier) from error
        finally:
            trainer.close()


class Trainer:
    """Everything that a run changes; `agents.parts` lists what of it travels in a checkpoint."""

    def __init__(self, options: TrainOptions, run: Path, envs: VectorEnv, logger: Logger, ranks: Ranks = ALONE) -> None:
        seeding.seed_everything(options.seed)
        self.options, self.run, self.envs, self.logger, self.ranks = options, run, envs, logger, ranks
        agent = self.agent = Agent(options, envs.obs_specs, envs.action_spec, spaces=envs.spaces)
        self.learner = Learner(agent.world_model, agent.policy, options, agent.sb3, agent.bonus, ranks)
        ranks.begin_alike(agent.world_model, agent.policy, *([] if agent.bonus is None else [agent.bonus]))
        first_stream = ranks.rank * envs.num_envs
        self.replay = Replay(
            envs.obs_specs,
            envs.action_spec.size,
            capacity=options.replay.capacity,
            streams=envs.num_envs,
            prefix=prefix(ranks),
            first_stream=first_stream,
            sharers=ranks.local_count,
        )
        self.replay_rng = seeding.generator(options.seed, purpose("replay", ranks))
        self.collect_rng = seeding.generator(options.seed, purpose("collect", ranks))
        explorer = options.agent.explorer
        self.collector = Collector(
            self.agent,
            envs,
            self.replay,
            seed=options.seed,
            rng=self.collect_rng,
            first_stream=first_stream,
            wander=explorer.wander if options.agent.name == "explorer" else 0.0,
            stretch=explorer.stretch,
            hold=options.train.warmup_hold,
        )
        self.idle = True  # no process has an open episode
        self._part_ways(options.seed)
        self.step = 0
        self.collected = 0
        self.barrier = 0
        self.owed = 0.0
        self.evaluations = self.evaluated = 0
        self.next_update = self.next_log = 0
        self.warm = False
        self.collapsed = False
        self.best: State = {"tensors": {}, "json": {"step": 0, "score": None}}
        self.alarm = RewardAlarm()
        self._eval_envs: VectorEnv | None = None

    def loop(self) -> None:
        """Collect and learn until the budget is spent, with a barrier at its end.

        With fixed data nothing is collected at first: a step passes and earns its updates.
        """
        train, evaluation, total = self.options.train, self.options.evaluation, self.options.all_steps
        given = self.options.data is not None
        while self.step < total or not self.idle:
            due = self.step >= min(self.next_barrier(), total)
            self.collector.draining = due
            if due and self.idle:
                self.save()
                continue
            if due and self.step >= min(self.next_barrier(), total) + train.checkpoint_every:
                self.collector.cut()  # an episode that does not end is ended here, in every run alike
                self.idle = True
                continue
            if given and self.idle and self.step - self.collected < self.options.steps:
                steps, finished = 1, []
            else:
                steps, finished = self._collect(random=not given and self.step < train.warmup_steps)
                self.collected += steps
            self.step += steps
            for result, length in finished:
                self.logger.log(self.step, {TRAIN_RETURN: result, "train/length": length})
            if given or self.step >= train.warmup_steps:
                self.learn(steps)
            if evaluation.every and self.step // evaluation.every > self.evaluated // evaluation.every:
                self.evaluate()
        if self.barrier < self.step:
            if self.options.agent.name == "explorer":
                self.learn_task()
            self.save()

    def _collect(self, *, random: bool) -> tuple[int, list[Finished]]:
        """One action in every environment at work. Returns steps of all processes and this one's finished episodes."""
        waits = self.collector.draining and self.collector.idle  # for the episodes of other processes
        own, finished = (0, []) if waits else self.collector.step(random=random)
        steps, busy = self.ranks.totals(own, int(not self.collector.idle))
        self.idle = busy == 0
        return steps, finished

    def _part_ways(self, seed: int) -> None:
        """From here on every process draws random numbers of its own; the first one those of a run alone."""
        if not self.ranks.first:
            seeding.seed_everything(seeding.derive(seed, purpose("training", self.ranks)))

    def learn(self, steps: int) -> None:
        """The updates that these steps have earned, in groups every `train.every` steps."""
        train = self.options.train
        if not self.warm:
            self.warm = True
            if self.options.world_model.trunk.standardize:
                self._standardize()
            self.owed = float(train.warmup_updates)
            self.next_update = self.next_log = self.step
        else:
            self.owed += train.updates_per_step * steps * min(1.0, train.full_rate_steps / self.step)
        if self.step < self.next_update:
            return
        self.next_update += train.every
        self.learner.slow_down(min(1.0, train.full_rate_steps / self.step) ** 0.5)
        count, metrics = int(self.owed), {}
        self.owed -= count
        for _ in range(count):
            metrics = self.update()
        if metrics and self.step >= self.next_log:
            self.next_log = self.step + train.log_every
            counts = {"train/updates": self.learner.updates, "train/skipped_updates": self.learner.skipped}
            self.logger.log(self.step, {**{k: float(v) for k, v in metrics.items()}, **counts, **self._members()})
        elif self.logger.progress is not None:
            self.logger.progress.update(self.step)

    def _standardize(self) -> None:
        """Centre and scale vectors by all that was seen, and images by about `STANDARDIZING_IMAGES` of those."""
        obs: dict[str, Tensor] = {}
        for name, spec in self.envs.obs_specs.items():
            if spec.kind not in ("vector", "image"):
                continue
            stride = max(1, len(self.replay) // STANDARDIZING_IMAGES) if spec.kind == "image" else 1
            seen = [episode["obs"][name][::stride] for episode in self.replay.iter_episodes()]
            obs[name] = self.ranks.gather(torch.from_numpy(np.concatenate(seen)))
        self.agent.world_model.fit_standardizer(obs)

    def _members(self) -> dict[str, float]:
        """How far the ensemble's members differ on noise; it is said once where two of them are one and the same."""
        model = self.agent.world_model
        if model.ensemble is None:
            return {}
        difference = member_difference(model.ensemble, model.temporal_prior.context_size)
        if difference < IDENTICAL and not self.collapsed:
            self.collapsed = True
            self._say(
                f"members of the ensemble agree even about noise (difference {difference:.1e}): "
                "epistemic uncertainty means nothing; raise world_model.ensemble.prior_scale"
            )
        return {"train/member_difference": difference}

    def update(self) -> Mapping[str, Tensor]:
        """One update from one batch."""
        batch = self._batch(self.replay_rng)
        try:
            metrics = self.learner.update(batch)
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} {dump_batch(self.run, batch, self.ranks)}") from error
        if self.learner.fault is not None:
            self.logger.log(self.step, {"train/skipped_updates": self.learner.skipped})
            self._say(f"update skipped, not finite: {self.learner.fault}")
            return metrics
        excess, warning = self.alarm.check(batch, metrics)
        if warning is not None:
            self.logger.log(self.step, excess)
            self._say(warning)
        return {**metrics, **{name: torch.tensor(value) for name, value in excess.items()}}

    def evaluate(self) -> None:
        """Evaluate on episodes of their own and keep the agent if it is the best so far. Training does not notice."""
        options = self.options.evaluation
        seed = options.seed + self.evaluations * options.episodes
        self.evaluations += 1
        self.evaluated = self.step
        self.agent.train_steps = self.step
        if not self.ranks.first:
            return
        began = time.monotonic()
        result = self._measure(self.agent, options.episodes, seed)
        self.logger.log(self.step, {**result.metrics(), "evaluation/seconds": time.monotonic() - began})
        score = self.best["json"]["score"]
        if self.options.agent.name == "explorer":
            return  # its returns are by the way: `learn_task` trains what is kept
        if score is None or result.mean >= score:
            self.best = self.agent.acting_state(self.step, result.mean)

    def learn_task(self) -> None:
        """Train a new policy for the environment's reward in the explorer's model; it is the agent that is kept.

        No number of it reaches the explorer: a run that goes on explores as if it had never stopped.
        """
        options = self.options
        with seeding.forked(seeding.derive(options.seed, "task")):
            agent = Agent(options, self.envs.obs_specs, self.envs.action_spec)
            fresh = module_state(agent.policy)
            agent.restore_acting(self.agent.acting_state(self.step, None))
            restore_module(agent.policy, fresh)
            learner = Learner(agent.world_model, agent.policy, options, ranks=self.ranks)
            self._part_ways(seeding.derive(options.seed, "task"))
            rng = seeding.generator(options.seed, purpose("task", self.ranks))
            metrics: Mapping[str, Tensor] = {}
            for _ in range(options.agent.explorer.task_updates):
                metrics = learner.practise(self._batch(rng))
        self.logger.log(self.step, {f"task/{k.removeprefix('policy/')}": float(v) for k, v in metrics.items()})
        self.best = agent.acting_state(self.step, None)

    def finish(self) -> TrainResult:
        """Evaluate the agent that was kept on fresh episodes; write evaluation.json, the curve and the film."""
        options = self.options.evaluation
        with seeding.forked(self.options.seed):
            kept = Agent(
                self.options,
                self.envs.obs_specs,
                self.envs.action_spec,
                train_steps=self.step,
                spaces=self.envs.spaces,
            )
        kept.restore_acting(self.best if self.best["tensors"] else self.agent.acting_state(self.step, None))
        if self.best["tensors"]:
            kept.train_steps = self.best["json"]["step"]
        result = self._measure(kept, options.final_episodes, options.seed + FINAL_SEED)
        file = self.run / EVALUATION_FILE
        write_evaluation(file, result, kept_card(file, result))
        self.logger.log(self.step, {k.replace("evaluation", "final", 1): v for k, v in result.metrics().items()})
        self._draw(kept)
        return TrainResult(result, self.run)

    def next_barrier(self) -> int:
        """The step at which the next checkpoint is due: a function of the last barrier alone."""
        every = self.options.train.checkpoint_every
        return (self.barrier // every + 1) * every

    def save(self) -> None:
        """Write everything; only then is this step the barrier that a stopped run goes back to."""
        (self.run / SEGMENTS).mkdir(exist_ok=True)
        segments = self.replay.write_segments(self.run / SEGMENTS)
        before, self.barrier = self.barrier, self.step
        try:
            parts, segments = join_parts(self.state(), segments, self.ranks)
            if self.ranks.first:
                save(self.run, self.step, parts, segments=segments, keep=self.options.train.keep)
            self.ranks.wait()
        except BaseException:
            self.barrier = before
            raise
        if self.agent.sb3 is not None:
            self.agent.sb3.forget()

    def begin(self, *, again: bool = False) -> None:
        """Write the checkpoint of step 0. again: the run was begun before and stopped ahead of it."""
        if again:
            self.logger.resume(0)
            if self.logger.progress is not None:
                self.logger.progress.say("no checkpoint was written yet: starting at step 0")
        self.save()

    def resume(self) -> None:
        """Go back to the last barrier: every part, the replay and the log."""
        with self.ranks.after_the_first():  # it sets damaged checkpoints aside, the others do not meet them
            checkpoint = load(self.run)
        parts, segments = own_parts(checkpoint.parts, checkpoint.segments, self.ranks)
        self.restore(parts)
        self.replay.load_segments(self.run / SEGMENTS, segments)
        self.logger.resume(self.step)
        if self.logger.progress is not None:
            self.logger.progress.restart(self.step)
            self.logger.progress.say(f"resuming from step {self.step:,}")
        self.notes(checkpoint.notes)

    def state(self) -> dict[str, State]:
        """Every part, by name."""
        return parts_of(self)

    def restore(self, parts: Mapping[str, State]) -> None:
        """Take every part back. Raises CheckpointError where one is missing or does not fit."""
        restore_parts(self, parts)

    def notes(self, lines: Sequence[str]) -> None:
        """Say something to the user."""
        if self.logger.progress is not None:
            for line in lines:
                self.logger.progress.say(line)

    def close(self) -> None:
        """Close the environments of the evaluation."""
        if self._eval_envs is not None:
            self._eval_envs.close()

    def _say(self, text: str) -> None:
        if self.logger.progress is not None:
            self.logger.progress.say(f"step {self.step:,}: {text}")

    def _draw(self, kept: Agent) -> None:
        """The film and the curve. The run is finished and measured already: what cannot be drawn is a warning."""
        try:
            from agents.film import dream_film
            from agents.plots import learning_curve

            self.logger.film(self.step, dream_film(kept, seed=self.options.evaluation.seed), "dream")
            learning_curve(self.run)
        except Exception as error:  # a renderer, an encoder or a font may raise anything
            text = f"{self.run}: the run is finished, but not all of it was drawn: {type(error).__name__}: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _batch(self, rng: np.random.Generator) -> Batch:
        """Windows to learn from; shorter ones while the replay is short."""
        size, length = self.options.replay.batch, self.options.replay.length
        shortest = min(length, self.replay.longest - 1)
        return self.replay.sample(size, shortest, rng).to(self.options.device)

    def _measure(self, agent: Agent, episodes: int, seed: int) -> Evaluation:
        options = self.options.evaluation
        if self._eval_envs is None:
            self._eval_envs = VectorEnv(self.options.env, options.num_envs)
        return evaluate(
            agent, self.options.env, episodes=episodes, seed=seed, num_envs=options.num_envs, envs=self._eval_envs
        )
