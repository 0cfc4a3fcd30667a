"""Episodes that forecasts are judged on: seen as numbers or through a camera, the same world behind them."""

import torch

from benchmarks.uncertainty import play


def test_the_camera_sees_the_same_episodes():
    numbers, images = (play("held", 1, 3, steps=6, pixels=pixels) for pixels in (False, True))
    assert torch.equal(numbers.action, images.action) and torch.equal(numbers.reward, images.reward)
    assert numbers.obs["obs"].shape == (1, 7, 3) and images.obs["obs"].shape == (1, 7, 32, 32, 2)
    seen = images.obs["obs"]
    assert seen.dtype == torch.uint8 and torch.equal(seen[:, 1:, ..., 0], seen[:, :-1, ..., 1])  # the frame before
    assert (seen[0, 1:, ..., 1] != seen[0, :-1, ..., 1]).any()


def test_shifted_episodes_begin_faster_than_any_other():
    begins = [play("random", 8, 0, shifted=shifted, steps=1).obs["obs"][:, 0, 2].abs() for shifted in (True, False)]
    assert (begins[0] >= 5).all() and (begins[0] <= 8).all() and (begins[1] <= 1).all()
