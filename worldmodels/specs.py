"""What observations and actions look like, as plain data: the border between spaces and sizes. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

ObsKind = Literal["vector", "image", "discrete", "multi_discrete", "multi_binary"]
ActionKind = Literal["discrete", "multi_discrete", "continuous"]


@dataclass(frozen=True)
class ObsSpec:
    """One observation array of an environment, as the toolkit stores it.

    kind: `vector` float32 (n,); `image` uint8 (height, width, channels); `discrete` int64 () in [0, classes[0]);
        `multi_discrete` int64 (n,), element i in [0, classes[i]); `multi_binary` uint8 (n,) of 0 and 1.
    shape: shape of one observation, without batch or time.
    classes: number of values of each discrete element; empty for the other kinds.
    """

    kind: ObsKind
    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        """Numpy dtype name of the stored array."""
        return {"vector": "float32", "image": "uint8", "multi_binary": "uint8"}.get(self.kind, "int64")

    @property
    def width(self) -> int:
        """Number of input features once encoded as floats (one-hot for discrete kinds)."""
        return sum(self.classes) if self.classes else prod(self.shape)


@dataclass(frozen=True)
class ActionSpec:
    """The action of an environment, as the toolkit carries it: float32 (size,).

    kind: `discrete` one-hot of classes[0]; `multi_discrete` one one-hot block per element, concatenated;
        `continuous` dimensions values in [-1, 1].
    """

    kind: ActionKind
    classes: tuple[int, ...] = ()
    dimensions: int = 0

    @property
    def size(self) -> int:
        """Width A of the encoded action."""
        return sum(self.classes) if self.classes else self.dimensions


def in_words(specs: Mapping[str, ObsSpec] | ActionSpec) -> str:
    """Observations or actions as a message says them: `obs vector (4,)`, `choices (2,)`, `3 numbers`."""
    if isinstance(specs, ActionSpec):
        return f"{specs.dimensions} numbers" if specs.kind == "continuous" else f"choices {specs.classes}"
    return ", ".join(f"{name} {s.kind} {s.classes or s.shape}" for name, s in specs.items())
