"""Does a still model know what it was not trained on? Digits, frames of games, and a classifier under attack.

    python -m benchmarks.stills digits frames panda --seeds 100 101 102 --picture docs/images/hybrid.png

digits: a VAE of the digits 0 to 7 against 8 and 9. frames: a VAE of one MinAtar game against the frames of another.
Scores: the raw ELBO, typicality, input complexity, the density of the latents, and the second-stage density of the
likelihood's statistics. The control at which the raw ELBO has to fail: images that the VAE itself makes out of its
prior, smoother than any real one, and more probable.
panda: a digits classifier under FGSM: the share of wrong decisions that are taken with confidence, plain and by
`decide`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.pictures import two_panels
from worldmodels.flows import parameter_count
from worldmodels.hybrid import Decider, Hybrid, Separate
from worldmodels.hybrid import fit as fit_joint
from worldmodels.specs import ObsSpec
from worldmodels.uncertainty import FlowDensity, compressed_nats, input_complexity, typicality
from worldmodels.uncertainty.metrics import auroc
from worldmodels.vae import StillVAE, fit

CONFIDENT = 0.9
"""Probability from which a decision counts as confident."""
REJECT = 0.01
"""p-value below which `decide` does not act on an input: the share of clean inputs that it costs."""
WEIGHT = 0.1
"""Of log p(x) in the hybrid's loss. More of it learns the training images by heart: strange ones look less strange."""
GAMES = ("breakout", "space_invaders")
"""Each is the known one in turn: the frames of the first are simpler than those of the second."""
OWN = 300
"""Images out of the VAE's prior."""
EPSILONS = (0.05, 0.1, 0.2, 0.3)
"""Sizes of the attack's step, in units of the range of a pixel."""


def digits() -> tuple[Tensor, Tensor]:
    """Images of 16x16 pixels (N, 16, 16, 1) uint8, each pixel of the data four times, and labels (N,)."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.kron(np.asarray(pixels).reshape(-1, 8, 8), np.ones((2, 2))) * (255 / 16)
    return torch.from_numpy(images.round().astype(np.uint8)).unsqueeze(-1), torch.tensor(labels)


def game_frames(name: str, count: int, seed: int) -> Tensor:
    """Frames (count, 10, 10, 1) of a MinAtar game played at random; each channel has a grey of its own."""
    from minatar import Environment

    env, rng, frames = Environment(name), np.random.default_rng(seed), []
    env.seed(seed)
    env.reset()
    while len(frames) < count:
        for _ in range(3):  # neighbouring frames are nearly the same
            _, over = env.act(int(rng.integers(env.num_actions())))
            if over:
                env.reset()
        state = np.asarray(env.state(), dtype=np.float64)
        levels = np.arange(1, state.shape[-1] + 1) / state.shape[-1]
        frames.append((255 * (state * levels).max(-1)).astype(np.uint8))
    return torch.from_numpy(np.stack(frames)).unsqueeze(-1)


def vae_scores(train: Tensor, groups: Sequence[Tensor], *, steps: int, seed: int) -> dict[str, list[Tensor]]:
    """Name of a score -> the scores of each group of images, by a VAE of the training images; the last are its own."""
    torch.manual_seed(seed)
    vae = StillVAE(ObsSpec("image", tuple(train.shape[1:])), latent=8, units=128, depth=8)
    fit(vae, train, steps=steps, seed=seed)

    with torch.no_grad():
        entropy = -vae.log_prob(train, samples=10)[0].mean().item()
        groups = [*groups, vae.sample(OWN)]
        latents, statistics = vae.latent(train), vae.statistics(train)
    first = FlowDensity(latents.shape[1]).fit(latents, steps=steps, noise=0.2, seed=seed)
    second = FlowDensity(statistics.shape[1]).fit(statistics, steps=steps, noise=0.2, seed=seed)
    scores: dict[str, Callable[[Tensor], Tensor]] = {
        "raw ELBO": lambda x: -vae.log_prob(x, samples=10)[0],
        "typicality": lambda x: typicality(vae.log_prob(x, samples=10)[0], entropy),
        "input complexity": lambda x: input_complexity(vae.log_prob(x, samples=10)[0], compressed_nats(x)),
        "latent density": lambda x: first.score(vae.latent(x)),
        "second stage": lambda x: second.score(vae.statistics(x)),
    }
    with torch.no_grad():
        return {name: [score(x) for x in groups] for name, score in scores.items()}


Tables = dict[str, dict[str, list[float]]]
"""Title -> score -> AUROC of each seed."""


def digits_tables(seeds: Sequence[int], steps: int) -> Tables:
    """Held-out digits 0 to 7 against 8 and 9, and against the model's own."""
    images, labels = digits()
    found: Tables = {}
    for seed in seeds:
        known = torch.from_numpy(np.random.default_rng(seed).permutation(np.flatnonzero(labels < 8)))
        nominal = images[known[1000:]]
        scores = vae_scores(images[known[:1000]], [nominal, images[labels >= 8]], steps=steps, seed=seed)
        _add(found, ["digits: 0 to 7 against 8 and 9", "digits: 0 to 7 against the model's own"], scores)
    return found


def frames_tables(seeds: Sequence[int], steps: int) -> Tables:
    """Held-out frames of each game against those of the other, and against the model's own."""
    found: Tables = {}
    for known, other in (GAMES, GAMES[::-1]):
        for seed in seeds:
            train, nominal = (game_frames(known, n, seed + 1000 * k) for k, n in enumerate((800, 300)))
            scores = vae_scores(train, [nominal, game_frames(other, 300, seed)], steps=steps, seed=seed)
            _add(found, [f"frames: {known} against {other}", f"frames: {known} against the model's own"], scores)
    return found


def _add(tables: Tables, titles: Sequence[str], scores: dict[str, list[Tensor]]) -> None:
    """AUROC of the first group against each further one, under its title."""
    for name, (nominal, *groups) in scores.items():
        for title, odd in zip(titles, groups, strict=True):
            tables.setdefault(title, {}).setdefault(name, []).append(auroc(nominal, odd))


def attack(model: Hybrid | Separate, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """One step of size epsilon along the sign of the gradient of -log p(y | x) (Goodfellow et al. 2015, FGSM)."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-model.log_choice(x, y).sum(), x)
    return (x + epsilon * gradient.sign()).clamp(0, 1).detach()


def panda(seed: int, steps: int) -> dict[str, list[float]]:
    """Model -> clean accuracy, decided and right, and confident wrong decisions at each size of the attack."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    train, nominal, test = order[:1000], order[1000:1400], order[1400:]
    torch.manual_seed(seed)
    models: dict[str, Hybrid | Separate] = {
        "plain (weight 0)": Hybrid(64, 10, weight=0.0),
        "hybrid": Hybrid(64, 10, weight=WEIGHT),
        "separate": Separate(64, 10, flow_units=44, units=80),  # of the same total size
    }
    found: dict[str, list[float]] = {}
    for name, model in models.items():
        fit_joint(model, x[train], y[train], steps=steps, noise=0.03, seed=seed)
        model.requires_grad_(False)
        decider = Decider(model, x[nominal])
        clean = decider.decide(x[test])
        right = clean.choice == y[test]
        ignores = name.startswith("plain")
        accepted = torch.ones_like(right) if ignores else clean.p_value >= REJECT
        shares = [right, right & accepted]
        for epsilon in EPSILONS:
            seen = decider.decide(attack(model, x[test], y[test], epsilon))
            acts = torch.ones_like(right) if ignores else seen.p_value >= REJECT
            shares.append((seen.choice != y[test]) & (seen.probability >= CONFIDENT) & acts)
        found[f"{name} ({parameter_count(model):,} parameters)"] = [share.float().mean().item() for share in shares]
    return found


def panda_table(seeds: Sequence[int], steps: int) -> None:
    """Print every seed, the medians, and these as shares of the plain classifier's: of its accuracy, of its errors."""
    head = ["seed", "model", "accuracy", "decided and right", *(f"wrong, FGSM {e}" for e in EPSILONS)]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    every: dict[str, list[list[float]]] = {}
    for seed in seeds:
        for name, shares in panda(seed, steps).items():
            every.setdefault(name, []).append(shares)
            print(f"| {seed} | {name} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)
    medians = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in every.items()}
    plain = next(iter(medians.values()))
    for name, row in medians.items():
        cells = [
            f"{value:.3f} ({value / base:.1%})"
            for value, base in zip(row, [plain[0], plain[0], *plain[2:]], strict=True)
        ]
        print(f"| median | {name} | {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print one table each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stills", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["digits", "frames", "panda"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--picture", type=Path, help="write the two-panel picture there")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for part, measure in (("digits", digits_tables), ("frames", frames_tables)):
        for title, scores in (measure(args.seeds, args.steps) if part in args.parts else {}).items():
            print(f"\n| {title} | AUROC, median | each seed |\n| --- | --- | --- |")
            for name, values in scores.items():
                print(f"| {name} | **{median(values):.3f}** | {'; '.join(f'{v:.3f}' for v in values)} |", flush=True)
    if "panda" in args.parts:
        panda_table(args.seeds, args.steps)
    if args.picture:
        two_panels(args.picture, seed=args.seeds[0], steps=args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
