"""How many labels do digits need? `python -m benchmarks.active_learning --json FILE` prints labels to 90 % and 95 %.

scikit-learn's 8x8 digits, in latents that no label was used for, frozen: of a still VAE that was fitted to all images
with the run's seed, principal components, or a spectral embedding of the VAE's latents: coordinates along the graph of
nearest neighbours, in which images that look alike stand together. Every 5 labels a bootstrap ensemble is fitted anew
and asked which 5 to label next. Each method meets the same pools and the same first 10 labels as random does. The
repeated pool holds every point three times. Seeds from 100 on; smaller ones chose the settings.
"""

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import SpectralEmbedding
from torch import Tensor

from agents.acquisition import (
    BootstrapClassifier,
    Selection,
    bald,
    batch_bald,
    core_set,
    epig,
    predictive_entropy,
    random_batch,
    top,
    variational_adversarial,
)
from benchmarks.rows import Row, append_row, load_rows, markdown, select, with_interval
from worldmodels.seeding import forked
from worldmodels.specs import ObsSpec
from worldmodels.vae import StillVAE, fit

METHODS = ("random", "batch_bald", "bald", "epig", "entropy", "core_set", "adversarial")
TARGETS = (0.90, 0.95)
FIRST, BATCH, LIMIT = 10, 5, 500
"""Labels at the start, labels a round, labels at which a run gives up."""
TEST = 500
VAE_STEPS, MIN_SCALE = 1500, 0.1
LATENTS: dict[str, int] = {"vae": 16, "pca": 20, "spectral": 16}
"""Where labels are asked for -> dimensions."""
NEIGHBOURS = 10
"""Of each image in the graph of the spectral embedding."""
CONFIGURATIONS, EPIG_TARGETS = 1_000, 50
FIRST_SEED = 100


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in [0, 1] and labels (1797,)."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


@lru_cache
def frozen_latents(kind: str, seed: int) -> Tensor:
    """Latents (1797, D) of all digits, centred and at one common scale, fitted without labels."""
    images, _ = digits()
    if kind == "pca":
        latents = torch.tensor(PCA(LATENTS[kind], random_state=0).fit_transform(images.numpy()), dtype=torch.float32)
    else:
        with forked(seed):
            vae = StillVAE(ObsSpec("vector", (images.shape[1],)), latent=LATENTS[kind], min_scale=MIN_SCALE)
        fit(vae, images, steps=VAE_STEPS, seed=seed)
        with torch.no_grad():
            latents = vae.latent(images)
    if kind == "spectral":
        embedding = SpectralEmbedding(LATENTS[kind], n_neighbors=NEIGHBOURS, random_state=0)
        latents = torch.tensor(embedding.fit_transform(latents.numpy()), dtype=torch.float32)
        latents = latents / latents.std(0)
    latents = latents - latents.mean(0)
    return latents / latents.std()


def choose(method: str, log_probs: Tensor, latents: Tensor, labelled: Tensor, generator: torch.Generator) -> Selection:
    """The next batch among candidates with log-probabilities (N, K, C) and latents (N, D)."""
    if method == "random":
        return random_batch(len(latents), BATCH, generator)
    if method == "batch_bald":
        return batch_bald(log_probs, BATCH, generator=generator, max_configurations=CONFIGURATIONS)
    if method == "bald":
        return top(bald(log_probs), BATCH)
    if method == "epig":
        targets = torch.randperm(len(log_probs), generator=generator)[:EPIG_TARGETS]
        return top(epig(log_probs, log_probs[targets]), BATCH)
    if method == "entropy":
        return top(predictive_entropy(log_probs), BATCH)
    if method == "core_set":
        return core_set(latents, labelled, BATCH)
    if method == "adversarial":
        seed = int(torch.randint(2**31, (), generator=generator))
        return variational_adversarial(latents, labelled, BATCH, seed=seed, steps=100)
    raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")


@torch.no_grad()
def learn(method: str, latents: Tensor, labels: Tensor, *, copies: int, seed: int, limit: int = LIMIT) -> Row:
    """One run: which labels it took to reach each target, and the accuracies on the way."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(latents), generator=generator)
    test, pool = order[:TEST], order[TEST:].repeat(copies)
    free = torch.ones(len(pool), dtype=torch.bool)
    free[:FIRST] = False
    chosen, curve = pool[:FIRST].tolist(), []
    while True:
        x, y = latents[chosen], labels[chosen]
        classifier = BootstrapClassifier(latents.shape[1], 10, generator=generator)
        with torch.enable_grad():
            classifier.fit(x, y, steps=150)
        accuracy = float((classifier(latents[test]).exp().mean(1).argmax(1) == labels[test]).float().mean())
        curve.append((len(chosen), accuracy))
        if accuracy >= TARGETS[-1] or len(chosen) >= limit:
            break
        candidates = free.nonzero().squeeze(1)
        around = latents[pool[candidates]]
        with torch.enable_grad():  # the adversarial choice trains networks
            index = candidates[choose(method, classifier(around).detach(), around, x, generator).index]
        free[index] = False
        chosen += pool[index].tolist()
    reached = [next((n for n, a in curve if a >= target), None) for target in TARGETS]
    return {"method": method, "copies": copies, "seed": seed, "reached": reached, "curve": curve}


def table(rows: Sequence[Row]) -> str:
    """Labels to each target, and as a share of random's in the same pool."""
    lines = []
    for copies in sorted({row["copies"] for row in rows}):
        for method in METHODS:
            own = select(rows, method=method, copies=copies)
            if not own:
                continue
            cells = []
            for k in range(len(TARGETS)):
                values, base = (_labels(select(rows, method=m, copies=copies), k) for m in (method, "random"))
                share = np.median(values) / np.median(base) if base and np.isfinite(np.median(base)) else np.nan
                cells += [with_interval(values), "-" if np.isnan(share) else f"{share:.2f}"]
            lines.append([method, f"x{copies}", str(len(own)), *cells])
    head = ["method", "pool", "seeds"]
    head += [cell for target in TARGETS for cell in (f"labels to {target:.0%}", "of random's")]
    return markdown(head, lines)


def repeated_share(rows: Sequence[Row], method: str) -> list[float]:
    """Median labels to each target on the pool repeated three times, as a multiple of the clean pool's."""
    shares = []
    for k in range(len(TARGETS)):
        three, one = (_labels(select(rows, method=method, copies=copies), k) for copies in (3, 1))
        known = three and one and np.isfinite(np.median(one))
        shares.append(float(np.median(three) / np.median(one)) if known else np.nan)
    return shares


def _labels(rows: Sequence[Row], k: int) -> list[float]:
    return [np.inf if row["reached"][k] is None else row["reached"][k] for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for and not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--copies", nargs="+", type=int, default=[1, 3], help="times that the pool holds each point")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(FIRST_SEED, FIRST_SEED + 10)))
    parser.add_argument("--latents", choices=list(LATENTS), default="vae")
    parser.add_argument("--json", type=Path, help="file of results; what is in it is not measured again")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    (_, labels), kept = digits(), load_rows(args.json)
    rows = select(kept, latents=args.latents)
    for seed in args.seeds:
        for copies in args.copies:
            for method in args.methods:
                if select(rows, method=method, copies=copies, seed=seed):
                    continue
                row = learn(method, frozen_latents(args.latents, seed), labels, copies=copies, seed=seed)
                row |= {"latents": args.latents}
                rows.append(row)
                append_row(args.json, row)
                print(f"{method} x{copies} seed {seed}: {row['reached']}", flush=True)
    print(f"\n{table(rows)}\n")
    for method in args.methods:
        shares = zip(TARGETS, repeated_share(rows, method), strict=True)
        print(f"{method}: repeated / clean " + ", ".join(f"{share:.2f} to {target:.0%}" for target, share in shares))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
