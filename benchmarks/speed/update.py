"""How long does one update take? World model, then actor and critic in imagination, at the compared sizes."""

from benchmarks.speed.measure import Measurement, measure
from benchmarks.speed.works import ACTION, BATCH, LENGTH, OBS, PRESETS, learner, preset, window

WORKS = {"W1": ("vector", 512), "W1b": ("vector", 2048), "W2": ("image", 512)}


def compared() -> dict[str, Measurement]:
    """W1, W1b and W2 in bfloat16, and W1 in float32."""
    found = {}
    for name, (obs, deter) in WORKS.items():
        for precision in ("bfloat16", "float32") if name == "W1" else ("bfloat16",):
            own, batch = learner(obs, deter, precision), window(OBS[obs], ACTION, BATCH, LENGTH)
            key = name if precision == "bfloat16" else f"{name} {precision}"
            modules = (own.world_model, own.policy.actor, own.policy.critic)
            found[key] = measure(lambda own=own, batch=batch: own.update(batch), modules=modules, note=precision)
    return found


def presets() -> dict[str, Measurement]:
    """The updates of CartPole's and Pendulum's presets, in float32."""
    found = {}
    for name, (obs, action) in PRESETS.items():
        own = preset(name)
        batch = window(obs, action, own.options.replay.batch, own.options.replay.length)
        modules = (own.world_model, own.policy.actor, own.policy.critic)
        found[f"update {name}"] = measure(lambda own=own, batch=batch: own.update(batch), modules=modules)
    return found
