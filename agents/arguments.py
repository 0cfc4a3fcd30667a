"""The command line's words: what each command takes, with help that a newcomer can follow."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from agents.stopping import USER_ERROR

Command = Callable[[argparse.Namespace], int]
_EXAMPLES = {
    "train": """
examples:
  wm train env=cartpole                            a preset of configs/env; the run lands in runs/
  wm train env=cartpole steps=20000 seed=1 run=runs/mine
  wm train env.id=Acrobot-v1 agent.horizon=20      any gymnasium environment, with the generic settings
  wm train resume=true run=runs/mine steps=40000   go on with a run; steps is the total
  wm train --import my_envs env.id=MyEnv-v0        an environment of your own, registered by my_envs.py
  wm train env=cartpole data=runs/mine run=runs/b  learn from what another run stored; nothing is collected
  wm train -m env=cartpole seed=0,1,2              one run for every combination, below multirun/

keys: env=PRESET or env.id=ID, world_model=PRESET, agent=PRESET, steps=, seed=, run=PATH, resume=true, device=,
and every other key of agents/options.py, envs/options.py and worldmodels/options.py, such as train.warmup_steps=.
A mistyped key is answered with the nearest one; nothing is written then.""",
    "evaluate": """
examples:
  wm evaluate runs/mine
  wm evaluate runs/mine --episodes 20 --seed 7 --video episode.mp4
  wm evaluate policies/mine                        a policy written by agents.sb3.export
  wm evaluate runs/mine --card --json card.json    how far its uncertainty can be trusted""",
    "report": """
examples:
  wm report runs/mine                              writes runs/mine/report.html
  wm evaluate runs/mine --card                     first, for the part on the model's uncertainty""",
    "doctor": """
examples:
  wm doctor --env CartPole-v1
  wm doctor --import my_envs --env MyEnv-v0
  wm doctor --env my_envs:MyEnv-v0 env.max_episode_steps=500

Each line begins with ok, note (it works, but know it) or wrong (mend it first). Exit code 2 where one is wrong.""",
    "imagine": """
examples:
  wm imagine runs/mine --out dream.mp4
  wm imagine runs/mine --out dream.gif --seed 3 --context 8 --horizon 60""",
    "compare": """
examples:
  wm compare runs/mine-seed* runs/other-seed*      folders that differ in a number at their end are runs of one method
  wm compare mine=runs/a mine=runs/b ppo=logs/1    METHOD=PATH says whose run it is
  wm compare ours=runs/a ppo=ppo_logs --metric rollout/ep_rew_mean --out comparison.png

Paths may be run folders, metrics.jsonl files, Monitor files of Stable-Baselines3 and TensorBoard's event files.""",
}


def parse(argv: Sequence[str], commands: Mapping[str, Command]) -> argparse.Namespace:
    """Return the arguments of `wm argv`; `command` is the function to call.

    Args:
        argv: what follows `wm`.
        commands: name -> what it does; each name needs a function in `_COMMANDS`.

    Raises:
        SystemExit: after the help (0) or after one line about what is wrong (2).
    """
    parser = _Parser(
        prog="wm",
        description="Train agents inside world models, measure them, and watch what they imagine.",
        epilog="`wm COMMAND --help` explains each command, with examples.",
    )
    common = _Parser(add_help=False)
    common.add_argument(
        "--import", dest="modules", metavar="MODULE", action="append", default=[],
        help="import a module of yours first, for example one that registers environments (repeatable)",
    )  # fmt: skip
    common.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in commands.items():
        summary, add_arguments = _COMMANDS[name]
        own = subparsers.add_parser(
            name, parents=[common], help=summary, description=summary, epilog=_EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        own.set_defaults(command=command, overrides=None)
        add_arguments(own)
    args, rest = parser.parse_known_args(list(argv))
    if rest and (args.overrides is None or any(item.startswith("-") for item in rest)):
        parser.error(f"unrecognised: {' '.join(rest)}")
    if rest:  # overrides that stand behind an option
        args.overrides = [*args.overrides, *rest]
    return args


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings; see below")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of KEY=A,B,C")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--episodes", type=_positive, default=100, metavar="N", help="episodes (default 100)")
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="episode k is reset with S + k")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write evaluation.json there too")
    parser.add_argument(
        "--video",
        type=_film,
        metavar="FILE",
        help="film of the first episode, with return and uncertainty (.mp4, .gif)",
    )
    parser.add_argument(
        "--card", action="store_true", help="measure how far the model's uncertainty can be trusted, in a few minutes"
    )
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the best")


def _add_imagine(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--out", type=_film, required=True, metavar="FILE", help="film to write (.mp4 or .gif)")
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="of the episode and the dream")
    parser.add_argument("--context", type=_positive, default=16, metavar="N", help="steps seen before it dreams")
    parser.add_argument("--horizon", type=_positive, default=60, metavar="N", help="steps dreamt (default 60)")


def _add_report(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train")
    parser.add_argument("--env", required=True, metavar="ID", help="a gymnasium id, or a preset of configs/env")
    parser.add_argument("--steps", type=_positive, default=1_000, metavar="N", help="random steps (1,000)")
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="episode k is reset with S + k")
    parser.add_argument(
        "--timeout", type=_positive, default=30, metavar="SECONDS", help="of a single call (default 30)"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="[METHOD=]RUN", help="runs to compare; see below")
    parser.add_argument("--metric", metavar="NAME", help="what returns are called in logs that have no evaluation.json")
    parser.add_argument(
        "--range", dest="ranges", type=_range, metavar="TASK=LOW:HIGH", action="append", default=[],
        help="returns that count 0 and 1 on a task (repeatable); several tasks without it: worst and best run",
    )  # fmt: skip
    parser.add_argument("--out", type=_picture, metavar="FILE", help="picture to write (.png)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--seed", type=_natural, default=0, metavar="S", help="of the bootstrap (default 0)")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=_folder, metavar="RUN", help="the run folder, such as runs/mine")
    parser.add_argument("--env", metavar="ID", help="a gymnasium id other than the run's own")


def _folder(text: str) -> str:
    if text.startswith("run=") and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"expected the folder alone, {text.removeprefix('run=')!r}, got {text!r}")
    return text


def _film(text: str) -> Path:
    if not text.endswith((".mp4", ".gif")):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .mp4 or .gif, got {text!r}")
    return Path(text)


def _picture(text: str) -> Path:
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, got {text!r}")
    return Path(text)


def _range(text: str) -> tuple[str, tuple[float, float]]:
    task, _, ends = text.rpartition("=")
    low, _, high = ends.partition(":")
    try:
        return task, (float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected TASK=LOW:HIGH, got {text!r}") from None


def _positive(text: str) -> int:
    return _whole(text, 1)


def _natural(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return int(text)


_COMMANDS = {
    "train": ("Train a world model and a policy inside it.", _add_train),
    "evaluate": ("Play whole episodes with a trained agent and report its returns.", _add_evaluate),
    "imagine": ("Film what the agent imagines beside what happens.", _add_imagine),
    "report": ("Write one HTML page about a run that needs no other file.", _add_report),
    "doctor": ("Say in plain words what is wrong with an environment, and how to begin with it.", _add_doctor),
    "compare": ("Say which method is better, over runs and tasks, with intervals.", _add_compare),
}
