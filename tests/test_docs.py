"""What the documents show works: commands, settings, links, and the example environment from class to action."""

import re
import shlex
import sys
from operator import attrgetter
from pathlib import Path

import gymnasium
import pytest
import torch

from tests.contracts.tools import small_model, small_options
from tests.source import ROOT
from worldmodels.types import State
from worldmodels.uncertainty import forecast

PAGES = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if path.is_file()]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of every `wm` command in the page's shell blocks, without the `wm`."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("wm ")]


def every_command() -> list[tuple[str, ...]]:
    found = {tuple(words) for path in PAGES for words in commands(path.read_text(encoding="utf-8"))}
    return sorted(found)


def torchrun_commands() -> list[tuple[str, ...]]:
    """The words of every `torchrun` command in the pages' shell blocks."""
    found = [block.replace("\\\n", " ").splitlines() for path in PAGES for block in blocks(path.read_text(), "bash")]
    return sorted({tuple(shlex.split(line)) for lines in found for line in lines if line.startswith("torchrun ")})


def test_tests_that_pages_name_exist():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", text))
    for path, name in sorted(named):
        defined = re.search(rf"^ *(def {name}\(|class {name}\b|{name} = )", (ROOT / path).read_text(), re.MULTILINE)
        assert defined, f"{path}::{name}"
    assert len(named) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:tests|scripts|benchmarks|worldmodels|envs|agents)/[\w/.]*)`", README)))
)
def test_files_that_the_readme_names_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_shown_commands_are_understood(words):
    from agents.arguments import parse
    from agents.cli import COMMANDS

    commands = dict.fromkeys(COMMANDS, lambda args: 0)
    if words != ("--help",):
        parse(words, commands)


@pytest.mark.parametrize(
    "words", [words for words in every_command() if words[0] == "train"], ids=lambda words: " ".join(words)
)
def test_shown_settings_exist(words):
    from agents.compose import compose
    from agents.options import TrainOptions
    from worldmodels.config import build

    sweeps = "-m" in words
    settings = [word.split(",")[0] if sweeps else word for word in words if "=" in word]
    settings = [word for word in settings if not word.startswith(("resume=", "hydra"))]
    assert settings
    build(TrainOptions, compose(settings))


@pytest.mark.parametrize("words", torchrun_commands(), ids=" ".join)
def test_shown_processes_can_share_the_work(words):
    import torch

    from agents.experiment import load_options
    from agents.launched import Place
    from agents.ranks import Ranks
    from agents.shares import share

    numbers = dict(word.split("=") for word in words if word.startswith(("--nnodes", "--nproc-per-node")))
    count = int(numbers.get("--nnodes", 1)) * int(numbers["--nproc-per-node"])
    assert count > 1 and words[words.index("-m") + 1 :][:2] == ("agents.cli", "train")
    options = load_options(words[words.index("train") + 1 :])
    own = share(options, Ranks(Place(0, count, count), torch.device("cpu")))
    assert own.replay.batch * count == options.replay.batch and own.agent.starts * count == options.agent.starts


def test_torchrun_is_shown():
    assert len(torchrun_commands()) >= 2


def test_shown_way_from_python_works():
    names: dict[str, object] = {}
    for block in blocks(CONFIGURATION, "python"):
        exec(compile(block, "configuration.md", "exec"), names)
    assert names["options"].env.id == "Pendulum-v1"


@pytest.mark.parametrize(
    ("page", "prior"), [("acquisition", "recurrent"), ("uncertainty", "recurrent"), ("temporal_priors", "transformer")]
)
def test_shown_blocks_run_with_what_they_are_about(page, prior):
    model = small_model(small_options(temporal_prior=prior, posterior_sees_context=prior == "recurrent"))
    state, action = model.dream_start(3), torch.nn.functional.one_hot(torch.arange(3), 4).float()
    names = {
        "model": model,
        "state": state,
        "states": state,
        "action": action,
        "actions": action.expand(2, 3, 4).transpose(0, 1),
    }
    names |= {"policy": lambda features: action, "State": State, "forecast": forecast}
    found = blocks((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "python")
    for block in found:
        exec(compile(block, f"{page}.md", "exec"), names)
    assert found and ("low" in names) == (page == "uncertainty")


def test_shown_mistakes_are_answered_as_shown():
    from agents.compose import compose
    from agents.options import TrainOptions
    from worldmodels.config import build
    from worldmodels.errors import ConfigError

    (words,) = re.findall(r"`wm train ([^`]+)` answers", CONFIGURATION)
    (answer,) = blocks(CONFIGURATION, "text")
    with pytest.raises(ConfigError) as caught:
        build(TrainOptions, compose(words.split()))
    assert str(caught.value) == answer.strip()


@pytest.mark.parametrize(("key", "shown"), re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", CONFIGURATION, re.MULTILINE))
def test_shown_defaults_are_those_of_the_code(key, shown):
    from agents.options import TrainOptions

    assert str(attrgetter(key)(TrainOptions())) == shown


@pytest.mark.parametrize("group", ["env", "world_model", "agent"])
def test_shown_presets_are_those_that_exist(group):
    from agents.compose import presets

    (names,) = re.findall(rf"^\| `{group}=` \|[^|]*\|([^|]*)\|", CONFIGURATION, re.MULTILINE)
    assert re.findall(r"`([^`]+)`", names) == presets(group)


def test_what_a_resumed_run_may_change_is_named():
    from agents.experiment import RESUMABLE

    (sentence,) = re.findall(r"may change: (.*?)\. Anything", CONFIGURATION, re.DOTALL)
    assert re.findall(r"`([^`]+)`", sentence) == list(RESUMABLE)


@pytest.fixture
def example(tmp_path, monkeypatch) -> Path:
    """A folder with the README's environment in it, as the current one."""
    (code,) = [block for block in blocks(README, "python") if block.startswith("# my_envs.py")]
    (tmp_path / "my_envs.py").write_text(code)
    monkeypatch.delitem(gymnasium.registry, "Thermostat-v0", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_envs", raising=False)
    return tmp_path


def test_example_environment_keeps_the_contract(example):
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("my_envs:Thermostat-v0")
    check_env(env.unwrapped, skip_render_check=True)


def test_example_environment_from_class_to_action(example):
    """The README's own commands and lines, with fewer steps."""
    from agents.cli import main

    train, evaluate = [words for words in commands(README) if "runs/thermostat" in " ".join(words)]
    few = ["steps=240", "train.warmup_steps=200", "train.warmup_updates=2", "evaluation.final_episodes=2"]
    assert main([*train, *few, "evaluation.every=0"]) == 0
    assert main([*evaluate, "--episodes", "2"]) == 0
    code, dream = [
        block.replace("runs/quickstart", "runs/thermostat")
        for block in blocks(README, "python")
        if "Agent.load" in block
    ]
    env = gymnasium.make("my_envs:Thermostat-v0")
    obs, _ = env.reset(seed=0)
    names = {"obs": obs}
    exec(compile(code, "README.md", "exec"), names)
    assert env.action_space.contains(names["action"])
    env.step(names["action"])
    few = (
        dream.replace("num_envs=64", "num_envs=1").replace("100_000", "100").replace("batch_size=256", "batch_size=32")
    )
    exec(compile(few.replace("n_eval_episodes=10", "n_eval_episodes=1"), "README.md", "exec"), {})
