"""Films: a dream beside reality, and an agent at work. Frames in, MP4 or GIF out."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from agents.dream import dream, record
from agents.panels import dream_frames, episode_frames
from envs.make import make_env
from envs.options import EnvOptions
from worldmodels.errors import ConfigError, EnvironmentFault

FPS = 15
SUFFIXES = (".mp4", ".gif")


def dream_film(
    agent: Any,  # noqa: ANN401 - an Agent
    env_options: EnvOptions | None = None,
    *,
    context: int = 16,
    horizon: int = 60,
    seed: int = 0,
) -> np.ndarray:
    """Return frames (T+1, H, W, 3) uint8 of an episode beside what the world model makes of it.

    The model sees the first `context` observations and dreams the next `horizon` along the actions that were taken,
    without looking again. Image tasks show reality, dream and difference; other tasks the environment's picture, where
    it can be drawn, and the observation's dimensions as curves. Predicted reward and uncertainty are drawn in.

    Args:
        agent: what acts and dreams.
        env_options: another environment than the agent's own.
        context: observations shown, at least 1; fewer where the episode ends before.
        horizon: steps dreamt; fewer where the episode ends before.
        seed: of the episode and of the dreams.
    Raises: ConfigError: the episode has no step. EnvironmentFault: the environment failed.
    """
    env = env_options if env_options is not None else agent.env_options
    images = any(spec.kind == "image" for spec in agent.obs_specs.values())
    draw = not images and can_render(env)
    recording = record(agent, env, steps=context + horizon - 1, seed=seed, draw=draw)
    if not len(recording):
        raise ConfigError(f"{env.id}: the episode of seed {seed} has no step that could be dreamt")
    dreamt = dream(agent.world_model, agent.obs_specs, recording, context=context, seed=seed)
    return dream_frames(dreamt, agent.obs_specs, title=env.id, frame_stack=env.frame_stack)


def episode_film(
    agent: Any,  # noqa: ANN401
    env_options: EnvOptions | None = None,
    *,
    seed: int = 0,
    steps: int = 1_000,
    deterministic: bool = True,
) -> np.ndarray:
    """Return frames (T+1, H, W, 3) uint8 of the episode with this seed, at most `steps` actions long.

    The environment's picture, where it can be drawn, beside the return so far, the reward, and how sure the agent's
    ensemble was of each step, where it has one.
    """
    env = env_options if env_options is not None else agent.env_options
    recording = record(agent, env, steps=steps, seed=seed, deterministic=deterministic, draw=can_render(env), ask=True)
    return episode_frames(recording, title=env.id)


def can_render(env_options: EnvOptions) -> bool:
    """Whether the environment can be drawn here: it has a picture, and this machine what drawing it needs."""
    try:
        env = make_env(env_options, render=True)
    except EnvironmentFault:
        return False
    env.close()
    return True


def save_video(path: str | Path, frames: np.ndarray, fps: int = FPS) -> Path:
    """Write frames (T, H, W, 3) uint8 to a `.mp4` (H.264) or a `.gif` and return the path.

    Raises: ConfigError: another ending. OSError: the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix == ".gif":
        path.write_bytes(gif_bytes(frames, fps))
        return path
    import imageio_ffmpeg

    frames = _even(frames)
    writer = imageio_ffmpeg.write_frames(
        str(path), (frames.shape[2], frames.shape[1]), fps=fps, macro_block_size=1, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
    if not path.is_file() or not path.stat().st_size:
        raise OSError(f"{path}: the film was not written")
    return path


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file name that `save_video` cannot write."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")


def gif_bytes(frames: np.ndarray, fps: int = FPS, *, widest: int | None = None) -> bytes:
    """Return frames (T, H, W, 3) uint8 as an endless GIF, made smaller where they are wider than `widest` pixels."""
    from PIL import Image

    shrink = 1 if widest is None else -(-frames.shape[2] // widest)
    images = [Image.fromarray(frame).reduce(shrink).quantize(128) for frame in frames]
    stream = io.BytesIO()
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return stream.getvalue()


def _even(frames: np.ndarray) -> np.ndarray:
    """Return the frames with an even height and width, as H.264 needs; the last row or column is repeated."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
