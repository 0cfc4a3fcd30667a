"""The two-panel picture of hybrid decisions: what a plain classifier is sure of, and what a hybrid one is."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons

from worldmodels.hybrid import Hybrid, fit

SPAN = (-2.2, 3.2, -2.0, 2.5)


def two_panels(file: Path, *, seed: int, steps: int) -> None:
    """Two moons: p(y = 1 | x) of the classifier with weight 0, beside p(y = 1 | x) faded by p(x) of the hybrid."""
    points, labels = make_moons(600, noise=0.08, random_state=seed)
    x, y = torch.tensor(points, dtype=torch.float32), torch.from_numpy(labels)
    axes = np.meshgrid(np.linspace(*SPAN[:2], 200), np.linspace(*SPAN[2:], 170))
    grid = torch.tensor(np.stack([a.ravel() for a in axes], 1), dtype=torch.float32)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), constrained_layout=True)
    titles = ("weight 0: sure everywhere", "hybrid: sure where data were")
    for panel, weight, title in zip(panels, (0.0, 2.0), titles, strict=True):
        torch.manual_seed(seed)
        model = Hybrid(2, 2, weight=weight, transforms=8, units=64)
        fit(model, x, y, steps=steps, noise=0.03, seed=seed)
        with torch.no_grad():
            first = model.log_choice(grid, torch.ones(len(grid), dtype=torch.long)).exp()
            density = model.log_prob(grid)[0].exp()
        level = torch.quantile(model.log_prob(x)[0].detach().exp(), 0.1)
        colours = plt.get_cmap("coolwarm")(first.reshape(axes[0].shape).numpy())
        if weight:
            trust = (density / level).clamp(max=1).reshape(*axes[0].shape, 1).numpy()
            colours[..., :3] = trust * colours[..., :3] + (1 - trust)
        panel.imshow(colours, extent=SPAN, origin="lower", aspect="auto")
        panel.scatter(
            *np.asarray(points)[:200].T, c=labels[:200], cmap="coolwarm", s=8, edgecolors="black", linewidths=0.3
        )
        panel.set(title=title, xlabel="x1", ylabel="x2")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
