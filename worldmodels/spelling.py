"""Which key was meant: the nearest valid name for one that is unknown."""

from collections.abc import Sequence
from difflib import SequenceMatcher

_NEAR_SIBLING = 0.5  # two-letter names with a slip stay above this
_NEAR_ELSEWHERE = 0.8  # a key from another section is only worth naming when it is almost the same


def suggestion(
    key: object, *, siblings: Sequence[str], given: Sequence[object], places: Sequence[str], path: str,
    listing: bool = True,
) -> str:  # fmt: skip
    """Return `; did you mean 'horizon'?`, or the list of valid keys where none is near.

    Args:
        key: the unknown key.
        siblings: the keys that are valid at this place.
        given: the keys that stand at this place already; a key that is given twice is rarely what was meant.
        places: dotted paths of every valid key of the whole configuration.
        path: the dotted path of this place.
        listing: whether to list the siblings where no name is near.
    """
    if not isinstance(key, str):
        return "; keys are text"
    free = [name for name in siblings if name not in given] or list(siblings)
    names = [name for name in free if name.lower() == key.lower()]
    if not names:
        near = [name for name in free if _likeness(key, name) >= _NEAR_SIBLING]
        near = sorted(near, key=lambda name: -_likeness(key, name))[:1]
        moved = _elsewhere(key, places, path, exact=True)
        if moved:
            names = [name for name in near if _likeness(key, name) >= _NEAR_ELSEWHERE] + moved
        else:
            names = near or _elsewhere(key, places, path, exact=False)
    if names:
        return f"; did you mean {' or '.join(repr(name) for name in names)}?"
    return f"; valid keys: {', '.join(siblings)}" if listing and siblings else ""


def _elsewhere(key: str, places: Sequence[str], path: str, *, exact: bool) -> list[str]:
    """Return up to three paths in other sections, nearest first, whose last name is `key`, or almost so."""
    least = 1.0 if exact else _NEAR_ELSEWHERE
    sections = [place.rpartition(".") for place in places]
    found = [(section, name) for section, _, name in sections if section != path and _likeness(key, name) >= least]
    found.sort(key=lambda item: (_distance(item[0], path), item))
    return [f"{section}.{name}" if section else name for section, name in found[:3]]


def _likeness(key: str, name: str) -> float:
    """Return 0 (nothing in common) to 1 (equal but for case). The same letters in another order are almost equal."""
    key, name = key.lower(), name.lower()
    ratio = SequenceMatcher(None, key, name).ratio()
    return max(ratio, 0.95) if sorted(key) == sorted(name) else ratio


def _distance(place: str, path: str) -> int:
    """Return how many sections one has to leave and enter to get from `path` to `place`."""
    left, right = [part for part in place.split(".") if part], [part for part in path.split(".") if part]
    common = 0
    while common < min(len(left), len(right)) and left[common] == right[common]:
        common += 1
    return len(left) + len(right) - 2 * common
