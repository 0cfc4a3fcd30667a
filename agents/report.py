"""`wm report`: one HTML page about a run that needs no other file and loads nothing from anywhere."""

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.evaluate import EVALUATION_FILE
from agents.experiment import CONFIG_FILE
from agents.plots import CURVE_FILE
from agents.quality import ModelQuality, model_quality
from agents.report_pictures import card_picture, quality_picture
from envs.options import EnvOptions
from worldmodels.errors import CheckpointError

REPORT_FILE = "report.html"
CARD_KEYS = (
    "gap_auroc", "sigma_error", "spearman_by_horizon", "coverage_90_by_horizon", "mace", "ood",
    "state_coverage_vs_random", "imagined_minus_real",
)  # fmt: skip
"""What `wm evaluate --card` adds to evaluation.json (docs/uncertainty.md)."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #e5e7eb }
table { border-collapse: collapse; margin: 0.6rem 0 } td, th { padding: 0.2rem 1rem 0.2rem 0; text-align: left }
th { font-weight: 600 } td.good { color: #15803d } td.bad { color: #b91c1c } td.open { color: #6b7280 }
img, video { max-width: 100% } p.note { color: #6b7280; font-size: 0.9rem } pre { background: #f3f4f6; padding: 0.8rem;
overflow-x: auto; font-size: 0.8rem }
"""


def write_report(run: str | Path, env_options: EnvOptions | None = None) -> Path:
    """Write `RUN/report.html` and return it.

    It holds what was trained, the learning curve, the evaluation, the dream film, the model's errors many steps ahead
    (played and dreamt now), and the U-card where `wm evaluate RUN --card` has measured it.

    Raises: CheckpointError: no run, no sound checkpoint, or the page cannot be written. ConfigError, EnvironmentFault:
        the environment cannot be played.
    """
    run = Path(run)
    agent = Agent.load(run)
    evaluation = _read_json(run / EVALUATION_FILE)
    quality = model_quality(agent, env_options)
    sections = [
        _trained(run, agent),
        _evaluated(run, evaluation),
        _film(run),
        _model(quality),
        _card(run, evaluation),
        f"<h2>Configuration</h2><pre>{escape((run / CONFIG_FILE).read_text(encoding='utf-8'))}</pre>",
    ]
    name = escape(run.resolve().name)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1>{''.join(sections)}</body></html>\n"
    )
    file = run / REPORT_FILE
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written: {error.strerror}") from error
    return file


def _trained(run: Path, agent: Agent) -> str:
    options = agent.options
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in _modules(agent).items()}
    rows = {
        "environment": options.env.id,
        "seed": options.seed,
        "simulator steps behind the agent that was kept": f"{agent.train_steps:,}",
        "world model": f"{options.world_model.encoder} encoder, {options.world_model.posterior} posterior, "
        f"{options.world_model.temporal_prior} temporal prior",
        "agent": options.agent.name,
        "parameters": ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
    }
    return f"<p class=note>{escape(str(run))}</p><h2>What was trained</h2>{_table(rows)}"


def _modules(agent: Agent) -> dict[str, Any]:
    return {"world model": agent.world_model, "policy": agent.policy}


def _evaluated(run: Path, evaluation: Mapping[str, Any] | None) -> str:
    curve = run / CURVE_FILE
    picture = _image(curve.read_bytes(), "returns against environment steps") if curve.is_file() else ""
    if evaluation is None:
        return (
            f"<h2>How well it acts</h2><p>Not evaluated yet: <code>wm evaluate {escape(str(run))}</code>.</p>{picture}"
        )
    low, high = evaluation["iqm_ci95"]
    rows = {
        "episodes": f"{evaluation['episodes']}, seeds from {evaluation['seed']}",
        "mean return": f"{evaluation['mean']:,.2f} (standard deviation {evaluation['std']:,.2f})",
        "interquartile mean": f"{evaluation['iqm']:,.2f} (95 % interval over episodes {low:,.2f} to {high:,.2f})",
        "lowest and highest": f"{min(evaluation['returns']):,.2f}, {max(evaluation['returns']):,.2f}",
    }
    return f"<h2>How well it acts</h2>{_table(rows)}{picture}"


def _film(run: Path) -> str:
    films = sorted((run / "videos").glob("*.mp4"), key=lambda file: file.stat().st_mtime)
    if not films:
        return (
            f"<h2>Dream beside reality</h2><p>No film yet: <code>wm imagine {escape(str(run))} --out FILE</code>.</p>"
        )
    data = base64.b64encode(films[-1].read_bytes()).decode()
    return (
        "<h2>Dream beside reality</h2><p>The model sees the first observations, then it dreams along the actions that "
        f'were taken.</p><video controls loop muted src="data:video/mp4;base64,{data}"></video>'
    )


def _model(quality: ModelQuality) -> str:
    heads = ("", "observation", "latent", "reward", "end of the episode, nats")
    lines = [(_ahead(row[0]), *row[1:]) for row in quality.rows()]
    cells = "".join(f"<tr><th>{line[0]}</th>{''.join(f'<td>{cell}</td>' for cell in line[1:])}</tr>" for line in lines)
    return (
        "<h2>What the model expects, and what comes</h2><p>Errors of dreams along actions that were taken, half of "
        "them the policy's, half of them chance's, on episodes that the model has not seen; in brackets and dashed "
        "what the model itself expected them to be. Observations are in standard deviations, rewards have one of "
        f"{quality.reward_spread:.3f}.</p>"
        f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{cells}</table>"
        f"{_image(quality_picture(quality), 'error by horizon')}"
        f"<p>Return: {escape(quality.returns())}.</p>"
    )


def _card(run: Path, evaluation: Mapping[str, Any] | None) -> str:
    known = {key: evaluation[key] for key in CARD_KEYS if evaluation and evaluation.get(key) is not None}
    head = "<h2>U-card: how far its uncertainty can be trusted</h2>"
    if not known:
        return (
            f"{head}<p>Not measured yet: <code>wm evaluate {escape(str(run))} --card</code>, then this page anew.</p>"
        )
    found = [row for key, value in known.items() for row in _verdicts(key, value)]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td><td class={mark}>{escape(words)}</td></tr>"
        for name, text, mark, words in found
    )
    picture = _image(card_picture(known), "the card as plots")
    where = None if evaluation is None else evaluation.get("card_env_id")
    head += "" if where is None else f"<p>Measured in {escape(str(where))}.</p>"
    return f"{head}<p>{escape(_verdict(found))}</p><table>{rows}</table>{picture}"


def _verdict(rows: list[tuple[str, str, str, str]]) -> str:
    """The whole card in a sentence: how many of its figures are as wanted, and which are not."""
    bad = [name for name, _, mark, _ in rows if mark == "bad"]
    judged = len(bad) + sum(mark == "good" for _, _, mark, _ in rows)
    if not bad:
        return f"Verdict: all {judged} figures are as wanted; its uncertainty can be relied on where it was measured."
    wanted = f"Verdict: {judged - len(bad)} of {judged} figures are as wanted."
    return f"{wanted} Do not rely on it where it says: {'; '.join(bad)}."


def _verdicts(key: str, value: Any) -> list[tuple[str, str, str, str]]:  # noqa: ANN401 - a number or a mapping
    """Rows of the card: what, its figure, good or bad or open, and what that means in plain words."""
    if key == "gap_auroc":
        return [
            _judged(
                "tells new from noisy (AUROC)", value, value >= 0.98, "0.98 or more", "what it has not seen stands out"
            )
        ]
    if key == "sigma_error":
        return [
            _judged(
                "error of the noise it learned", value, value <= 0.10, "at most 0.10", "it knows how noisy the world is"
            )
        ]
    if key == "mace":
        return [
            _judged(
                "calibration error of intervals",
                value,
                value <= 0.05,
                "at most 0.05",
                "its intervals mean what they say",
            )
        ]
    if key == "state_coverage_vs_random":
        return [("states visited, against chance", f"{value:.2f} x", "open", "above 1: it goes where chance does not")]
    if key == "imagined_minus_real":
        good, meaning = abs(value) <= 0.10, "it does not fool itself about its returns"
        return [_judged("imagined minus real return", value, good, "between -0.10 and 0.10", meaning)]
    if key == "spearman_by_horizon":
        bars = {h: 0.75 if h == "1" else 0.6 for h in value}
        return [
            _judged(f"ranks its errors, {_ahead(h)}", v, v >= bars[h], f"{bars[h]} or more", "unsure where it errs")
            for h, v in value.items()
            if v is not None
        ]
    if key == "coverage_90_by_horizon":
        return [
            _judged(
                f"90 % intervals hold, {_ahead(h)}", v, 0.85 <= v <= 0.95, "0.85 to 0.95", "nine in ten, as promised"
            )
            for h, v in value.items()
            if v is not None
        ]
    return _ood_verdicts(value)


def _ood_verdicts(value: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for fault, figures in value.items():
        if not isinstance(figures, Mapping) or figures.get("auroc") is None:
            continue
        auroc, rest = figures["auroc"], ", ".join(f"{k} {_short(v)}" for k, v in figures.items() if k != "auroc")
        mark = "good" if auroc >= 0.95 else "bad"
        rows.append((f"notices: {fault.replace('_', ' ')}", f"AUROC {auroc:.3f} ({rest})", mark, _words(auroc >= 0.95)))
    return rows


def _words(good: bool) -> str:  # noqa: FBT001
    return "it would raise an alarm" if good else "do not rely on an alarm"


def _judged(name: str, value: float, good: bool, wanted: str, meaning: str) -> tuple[str, str, str, str]:  # noqa: FBT001
    words = meaning if good else f"do not rely on it: {wanted} was wanted"
    return name, f"{value:.3f}", "good" if good else "bad", words


def _ahead(horizon: str) -> str:
    return "1 step ahead" if horizon == "1" else f"{horizon} steps ahead"


def _short(value: Any) -> str:  # noqa: ANN401
    return "none" if value is None else f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _image(png: bytes, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _read_json(file: Path) -> dict[str, Any] | None:
    """Return the evaluation, None where there is none yet. Raises CheckpointError: it is no evaluation."""
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        needed = ("episodes", "seed", "mean", "std", "iqm", "iqm_ci95", "returns")
        missing = [key for key in needed if key not in data]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if missing:
        raise CheckpointError(f"{file}: has no {', '.join(missing)}; write it anew by `wm evaluate {file.parent}`")
    return data
