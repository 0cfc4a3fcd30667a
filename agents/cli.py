"""`wm`: train, evaluate and watch agents from a terminal. Nothing heavy is loaded before the input was checked.

A user's mistake is one line on standard error and exit code 2; a traceback appears only with --debug.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.arguments import parse
from agents.stopping import USER_ERROR, guarded
from worldmodels.errors import ConfigError

EXPORTED = "policy.json"
"""The file by which a folder is an exported policy of Stable-Baselines3 and not a run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `wm` with `argv` (the process's own arguments without it) and return the exit code.

    0: done. 2: a mistake in the input or the environment, explained in one line. 130, 143: stopped by Ctrl-C or
    SIGTERM.
    """
    try:
        args = parse(sys.argv[1:] if argv is None else argv, COMMANDS)
    except SystemExit as end:  # argparse has printed the help, the version or what is wrong
        return end.code if isinstance(end.code, int) else USER_ERROR
    return guarded(lambda: _run(args), debug=args.debug)


def train_run(options: Any) -> int:  # noqa: ANN401 - TrainOptions, whose module need not be loaded for `evaluate`
    """Train the run that `options` describe, in its folder and under its lock, and say how it went.

    Of the processes that torchrun starts the first one alone has the folder's lock, evaluates, logs, saves and speaks.
    Raises: WorldModelsError, Interrupted: see `agents.trainer.train`.
    """
    from agents.experiment import open_run
    from agents.launched import place

    own = place()
    with open_run(options) if own.rank == 0 else nullcontext() as opened:
        from agents.log import Logger
        from agents.progress import Progress
        from agents.ranks import connect
        from agents.trainer import train

        progress = Progress(options.all_steps) if own.rank == 0 else None
        with connect(own, options.device) as ranks:
            run = Path(ranks.gather_bytes(str(opened).encode())[0].decode())
            with Logger(run, progress=progress, on=ranks.first) as logger:
                result = train(options, run, resume=options.resume, logger=logger, ranks=ranks)
    if result is None:
        return 0
    print(result.evaluation.table())
    for name in ("evaluation.json", "learning_curve.png", "videos", "tensorboard"):
        if (run / name).exists():
            print(f"{'':<20}{run / name}")
    return 0


def import_modules(modules: Sequence[str]) -> None:
    """Import the user's modules; the current folder is searched last, so that it hides nothing.

    Raises: ConfigError: a module is missing or fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a user's module may raise anything
            raise ConfigError(f"--import {module}: {type(error).__name__}: {error}") from error


def _run(args: argparse.Namespace) -> int:
    _check_own_packages()
    import_modules(args.modules)
    return args.command(args)


def _train(args: argparse.Namespace) -> int:
    from agents.launched import place

    if args.multirun:
        if place().count > 1:
            raise ConfigError("-m starts runs of one process each: leave out torchrun, or leave out -m")
        from agents.sweep import multirun

        return multirun(args.overrides, modules=args.modules)
    from agents.experiment import load_options, resume_changes

    options = load_options(args.overrides)
    if options.resume:
        named = any(line.lstrip("+").startswith("env.id=") for line in args.overrides)
        _check_foreign(options.env.id, args.modules, named=named, how=f"env.id={options.env.id}")
        for key, (old, new) in resume_changes(options).items() if place().rank == 0 else ():
            print(f"changed: {key}: {old} -> {new}")
    return train_run(options)


def _evaluate(args: argparse.Namespace) -> int:
    exported = (Path(args.folder) / EXPORTED).is_file()
    env = None if exported else _env_options(args)
    for file in (args.json, args.video):
        _check_output(file)
    from agents.evaluate import EVALUATION_FILE, evaluate, kept_card, write_evaluation

    if exported and args.card:
        raise ConfigError(f"--card is about a world model, and {args.folder} holds a policy of Stable-Baselines3 alone")
    if env is None:
        agent, env = _exported_policy(args)
    else:
        from agents.agent import Agent

        agent = Agent.load(args.folder)
    result = evaluate(
        agent,
        env,
        episodes=args.episodes,
        seed=args.seed,
        num_envs=min(args.episodes, 20),
        deterministic=not args.stochastic,
    )
    print(result.table())
    stored = Path(args.folder) / EVALUATION_FILE
    extra = kept_card(stored, result)
    if args.card:
        from agents.card import card, table

        measured = card(agent, env)
        extra |= measured | {"card_env_id": env.id}
        print(f"\n{table(measured)}\n")
    for file in (stored, args.json):
        if file is not None:
            print(f"{'written':<20}{write_evaluation(file, result, extra)}")
    if args.video is not None:
        from agents.film import episode_film, save_video

        frames = episode_film(agent, env, seed=args.seed, deterministic=not args.stochastic)
        print(f"{'film':<20}{save_video(args.video, frames)}")
    return 0


def _exported_policy(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return an exported policy of Stable-Baselines3 and the environment to act in."""
    from agents.sb3 import load_policy
    from envs.options import EnvOptions

    policy = load_policy(args.folder)
    env_id = args.env or policy.env_id
    if env_id is None:
        raise ConfigError(f"{args.folder} does not say which environment it was trained in: add --env ID")
    _check_foreign(env_id, args.modules, named=args.env is not None, how=f"--env {env_id}")
    return policy, EnvOptions(id=env_id)


def _imagine(args: argparse.Namespace) -> int:
    env = _env_options(args)
    _check_output(args.out)
    from agents.agent import Agent
    from agents.film import dream_film, save_video

    agent = Agent.load(args.folder)
    frames = dream_film(agent, env, context=args.context, horizon=args.horizon, seed=args.seed)
    print(f"film: {save_video(args.out, frames)}")
    from agents.quality import model_quality

    print("\nErrors of dreams along actions that were taken, and in brackets what the model expected them to be:")
    print(model_quality(agent, env).table())
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from agents.compose import presets
    from agents.experiment import load_options
    from envs.doctor import Finding, examine

    given = [f"env={args.env}" if args.env in presets("env") else f"env.id={args.env}", *args.overrides]
    checkup = examine(load_options(given).env, steps=args.steps, seed=args.seed, timeout_s=args.timeout)
    for finding in checkup.findings:
        print(finding, flush=True)
    if checkup.env is None or checkup.play is None:
        print("\nMend this first: nothing more can be said until it can be played.")
        return USER_ERROR
    from agents.proposal import busy, propose

    if (crowded := busy()) is not None:
        print(Finding("note", "machine", crowded), flush=True)
    checkup.env.close()
    step_s = float(sorted(checkup.play.step_s)[len(checkup.play.step_s) // 2])
    print(f"\n{propose(given, checkup.env.obs_specs, checkup.env.action_spec, step_s=step_s)}")
    print(
        f"\n{checkup.wrong or 'nothing'} to mend" + (": see the lines that begin with wrong" if checkup.wrong else "")
    )
    return USER_ERROR if checkup.wrong else 0


def _report(args: argparse.Namespace) -> int:
    env = _env_options(args)
    from agents.report import write_report

    print(f"report: {write_report(args.folder, env)}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    for file in (args.out, args.json):
        _check_output(file)
    from agents.scores import read_run

    runs = [read_run(item, metric=args.metric) for item in args.runs]
    from agents.compare import compare

    comparison = compare(runs, ranges=dict(args.ranges), seed=args.seed)
    print(comparison.table())
    if args.json is not None:
        from agents.evaluate import write_json

        print(f"written: {write_json(args.json, comparison.to_json())}")
    if args.out is not None:
        from agents.plots import comparison_picture

        print(f"picture: {comparison_picture(comparison, runs, args.out)}")
    return 0


def _env_options(args: argparse.Namespace) -> Any:  # noqa: ANN401 - EnvOptions
    """Return the environment to act in: the run's own, or `--env` with otherwise the run's settings."""
    from agents.experiment import recorded_options

    recorded = recorded_options(args.folder).env
    if args.env is None:
        _check_foreign(recorded.id, args.modules, named=False, how=f"--env {recorded.id}")
        return recorded
    return recorded if args.env == recorded.id else replace(recorded, id=args.env, kwargs={})


def _check_foreign(env_id: str, modules: Sequence[str], *, named: bool, how: str) -> None:
    """Raise ConfigError where a run's own configuration would import a module that the user has not named."""
    module, colon, _ = env_id.partition(":")
    if colon and not named and module not in modules:
        raise ConfigError(
            f"this run's environment is {env_id}, and making it runs the code of {module}: "
            f"allow that by {how} or --import {module}"
        )


def _check_output(file: Path | None) -> None:
    if file is not None and (not file.parent.is_dir() or file.is_dir()):
        raise ConfigError(f"{file}: expected a file in a folder that exists")


def _check_own_packages() -> None:
    """Raise ConfigError where `envs` or `worldmodels` would come from somewhere else than this file's neighbours."""
    root = Path(__file__).resolve().parent.parent
    for package in ("agents", "envs", "worldmodels"):
        spec = importlib.util.find_spec(package)
        places = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
        if root / package not in places[:1]:
            found = places[0] if places else "no folder"
            raise ConfigError(
                f"the package {package!r} comes from {found}, not from {root}: another project's {package!r} hides "
                "this one's; start wm from another folder, change PYTHONPATH or uninstall that project"
            )


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "imagine": _imagine,
    "compare": _compare,
    "report": _report,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
