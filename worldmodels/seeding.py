"""Random states that can be kept and returned, and seeds that are pure functions of what they are for."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from worldmodels.errors import CheckpointError
from worldmodels.states import State, check_tensors

_BITS = 2**31 - 1  # gymnasium, numpy and Stable-Baselines3 all take 31 bits
_EPISODES, _NAMES = 0, 1  # first element of every key, so that no episode shares a seed with a name by design


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's legacy and torch's (CPU and every CUDA device) global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def episode_seed(run_seed: int, stream: int, episode: int) -> int:
    """Return the 31-bit seed with which episode number `episode` of environment `stream` is reset."""
    return _seed(run_seed, (_EPISODES, stream, episode))


def derive(run_seed: int, name: str) -> int:
    """Return the 31-bit seed of the purpose `name` (`evaluation`, `replay`), independent of every other name's."""
    return _seed(run_seed, (_NAMES, *_words(name)))


def generator(run_seed: int, name: str) -> np.random.Generator:
    """Return a fresh generator for the purpose `name`, independent of every other name's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(run_seed, spawn_key=(_NAMES, *_words(name)))))


def generator_state(rng: np.random.Generator) -> State:
    """Return where `rng` stands."""
    return {"tensors": {}, "json": rng.bit_generator.state}


def restore_generator(rng: np.random.Generator, state: State) -> None:
    """Put `rng` back to `state`; raises CheckpointError where it is the state of another kind of generator."""
    try:
        rng.bit_generator.state = state["json"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"not the state of a {type(rng.bit_generator).__name__} generator: {error}") from error


def capture() -> State:
    """Return the state of Python's, numpy's legacy and torch's global generators, and of every accelerator in use."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),  # (625,)
        "numpy": torch.from_numpy(np.asarray(keys, np.int64)),  # (624,)
        "torch": torch.get_rng_state(),
    }
    tensors |= _accelerator_states()
    numbers = {"position": int(position), "has_gauss": int(has_gauss), "cached": float(cached)}
    return {"tensors": tensors, "json": {"python": {"version": version, "gauss": gauss}, "numpy": numbers}}


def restore(state: State) -> None:
    """Put the global generators back to `state`; raises CheckpointError, with nothing changed, where it does not fit.

    The states of devices that this machine does not have are left out: without the device nothing draws from it.
    """
    tensors, numbers = state["tensors"], state["json"]
    cpu = {name: tensor for name, tensor in tensors.items() if not name.startswith(("cuda.", "mps"))}
    check_tensors({name: tensor for name, tensor in capture()["tensors"].items() if name in _CPU}, cpu)
    try:
        python = (numbers["python"]["version"], tuple(tensors["python"].tolist()), numbers["python"]["gauss"])
        keys, own = tensors["numpy"].numpy().astype(np.uint32), numbers["numpy"]
        legacy = ("MT19937", keys, own["position"], own["has_gauss"], own["cached"])
        random.Random().setstate(python)  # noqa: S311 - a trial: the real ones change together or not at all
        np.random.RandomState().set_state(legacy)
        torch.Generator().set_state(tensors["torch"])
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"not a random state: {error}") from error
    random.setstate(python)
    np.random.set_state(legacy)
    torch.set_rng_state(tensors["torch"])
    for device in range(torch.cuda.device_count()):
        if f"cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{device}"], device)
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Within, every global generator draws from `seed`; afterwards all are as they were, also after an error."""
    before = capture()
    try:
        seed_everything(seed)
        yield
    finally:
        restore(before)


class TorchStream:
    """A torch random state of its own: inside `with stream:` torch draws from it, outside nothing has changed.

    device: the CPU's state is always the stream's; that of another device too where one is named.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin anew from `seed`."""
        self._own = [torch.Generator().manual_seed(seed).get_state()]
        if self._device.type != "cpu":
            self._own.append(torch.Generator(self._device).manual_seed(seed).get_state())

    def __enter__(self) -> None:
        self._outer = self._states()
        self._set(self._own)

    def __exit__(self, *error: object) -> None:
        self._own = self._states()
        self._set(self._outer)

    def _states(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        elif self._device.type == "mps":
            states.append(torch.mps.get_rng_state())
        return states

    def _set(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
        elif self._device.type == "mps":
            torch.mps.set_rng_state(states[1])


_CPU = ("python", "numpy", "torch")


def _accelerator_states() -> dict[str, torch.Tensor]:
    """Return the state of every CUDA device, or none while CUDA is not in use: asking would start it; and of MPS."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = {f"cuda.{device}": state for device, state in enumerate(devices)}
    return states | ({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {})


def _words(name: str) -> tuple[int, ...]:
    raw = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(raw[i : i + 4], "little") for i in range(0, 16, 4))


def _seed(run_seed: int, key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(run_seed, spawn_key=key).generate_state(1)[0]) & _BITS
