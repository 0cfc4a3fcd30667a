"""`wm report`: one HTML page about a run that needs no other file and loads nothing from anywhere."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from agents.agent import Agent
from agents.evaluate import EVALUATION_FILE
from agents.experiment import CONFIG_FILE
from agents.plots import CURVE_FILE
from agents.quality import ModelQuality, model_quality
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

Figure = Any
"""matplotlib's Figure."""


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
    reached = quality.starts > 0
    last = int(np.flatnonzero(reached)[-1])
    rows = {
        _ahead(str(h)): f"observation {quality.observation[h - 1]:.3f} of its spread, reward "
        f"{quality.reward[h - 1]:.3f} (spread {quality.reward_spread:.3f}), end of the episode "
        f"{quality.continuation[h - 1]:.3f} nats"
        for h in (1, 5, 10, 20, 30)
        if h - 1 <= last
    }
    return (
        "<h2>What the model expects, and what comes</h2><p>Errors of dreams along actions that were taken, half of "
        "them the policy's, half of them chance's, on episodes that the model has not seen.</p>"
        f"{_table(rows)}{_image(_png(lambda f: _draw_quality(f, quality)), 'error by horizon')}"
    )


def _card(run: Path, evaluation: Mapping[str, Any] | None) -> str:
    known = {key: evaluation[key] for key in CARD_KEYS if evaluation and evaluation.get(key) is not None}
    head = "<h2>U-card: how far its uncertainty can be trusted</h2>"
    if not known:
        return (
            f"{head}<p>Not measured yet: <code>wm evaluate {escape(str(run))} --card</code>, then this page anew.</p>"
        )
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td><td class={mark}>{escape(words)}</td></tr>"
        for name, text, mark, words in (row for key, value in known.items() for row in _verdicts(key, value))
    )
    picture = _image(_png(lambda f: _draw_card(f, known)), "the card as plots")
    where = None if evaluation is None else evaluation.get("card_env_id")
    head += "" if where is None else f"<p>Measured in {escape(str(where))}.</p>"
    return f"{head}<table>{rows}</table>{picture}"


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


def _draw_quality(figure: Figure, quality: ModelQuality) -> None:
    steps = np.arange(1, len(quality.observation) + 1)
    axes = figure.subplots(1, 4)
    axes[0].plot(steps, quality.observation, color="#1d4ed8", label="observation")
    if quality.expected is not None:
        axes[0].plot(steps, quality.expected, color="#c2410c", linestyle="--", label="expected by the model")
    axes[0].plot(steps, quality.latent, color="#6b7280", linewidth=1, label="latent")
    axes[0].legend(frameon=False, fontsize=7)
    axes[1].plot(steps, quality.reward, color="#1d4ed8")
    axes[1].axhline(quality.reward_spread, color="#9ca3af", linestyle=":")
    axes[2].plot(steps, quality.continuation, color="#1d4ed8")
    if len(quality.real):
        axes[3].plot(quality.real, quality.imagined, ".", color="#1d4ed8", markersize=3)
        ends = [min(quality.real.min(), quality.imagined.min()), max(quality.real.max(), quality.imagined.max())]
        axes[3].plot(ends, ends, color="#9ca3af", linewidth=1)
    titles = ("error (standard deviations)", "reward error", "continuation (nats)", "imagined against real return")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("steps ahead" if axis is not axes[3] else "real", fontsize=8)
        axis.set_ylim(bottom=0) if axis is not axes[3] else axis.set_ylabel("imagined", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)


def _draw_card(figure: Figure, known: Mapping[str, Any]) -> None:
    drawn: list[tuple[str, list[str], list[float], tuple[float, ...]]] = []
    simple = {k: known[k] for k in ("gap_auroc", "sigma_error", "mace", "imagined_minus_real") if k in known}
    if simple:
        drawn.append(("single figures", [k.replace("_", " ") for k in simple], list(simple.values()), ()))
    for key, title, lines in (
        ("spearman_by_horizon", "rank correlation with the error", (0.6, 0.75)),
        ("coverage_90_by_horizon", "coverage of 90 % intervals", (0.85, 0.95)),
    ):
        found = {h: v for h, v in known.get(key, {}).items() if v is not None}
        if found:
            drawn.append((title, [f"{h} steps" for h in found], list(found.values()), lines))
    faults = {f: v["auroc"] for f, v in known.get("ood", {}).items() if isinstance(v, Mapping) and v.get("auroc")}
    if faults:
        drawn.append(("AUROC of faults", [f.replace("_", " ") for f in faults], list(faults.values()), (0.95,)))
    axes = np.atleast_1d(figure.subplots(1, max(1, len(drawn))))
    for axis, (title, names, values, lines) in zip(axes, drawn, strict=False):
        axis.barh(range(len(names)), values, color="#1d4ed8", height=0.55)
        for line in lines:
            axis.axvline(line, color="#c2410c", linewidth=1, linestyle="--")
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)


def _png(draw: Callable[[Figure], None]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(12, 2.8), dpi=110, facecolor="white", layout="constrained")
    draw(figure)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


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
