"""Observations as pictures: any image in colours, and a vector as bars."""

import numpy as np

_PALETTE = np.array(
    [[214, 69, 65], [38, 120, 178], [89, 161, 79], [237, 172, 50], [140, 90, 170], [90, 190, 200], [240, 130, 150],
     [150, 110, 70], [120, 120, 120], [200, 200, 90]], dtype=np.float32,
)  # fmt: skip
BAR_HEIGHT, BAR_WIDTH = 12, 192
"""Pixels of one number's bar."""
PAPER, MIDDLE, BAR = (255, 255, 255), (200, 200, 200), (194, 65, 12)


def to_rgb(images: np.ndarray, frame_stack: int = 1) -> np.ndarray:
    """Return images (..., H, W, C) uint8 as colours (..., H, W, 3); other numbers of channels get a colour each."""
    newest = images.shape[-1] // frame_stack
    images = images[..., -newest:]
    if newest == 3:
        return images
    if newest == 1:
        return np.repeat(images, 3, axis=-1)
    weight = images[..., None].astype(np.float32) / 255  # (..., H, W, C, 1)
    return (weight * _PALETTE[np.arange(newest) % len(_PALETTE)]).max(-2).astype(np.uint8)


def bars(values: np.ndarray) -> np.ndarray:
    """Return a vector (n,) as uint8 (12 n, 192, 3): a bar from the middle for each number, full at -1 or 1."""
    picture = np.full((BAR_HEIGHT * len(values), BAR_WIDTH, 3), PAPER, dtype=np.uint8)
    middle = BAR_WIDTH // 2
    for row, value in enumerate(np.clip(values, -1.0, 1.0)):
        end = middle + round(float(value) * (middle - 1))
        picture[row * BAR_HEIGHT + 2 : (row + 1) * BAR_HEIGHT - 2, min(middle, end) : max(middle, end) + 1] = BAR
    picture[:, middle] = MIDDLE
    return picture
