"""How long does one plan take, at the sizes that two other planners were measured at?

    python -m benchmarks.planning [--repeats N] [--threads N] [--beside-mbrl]

W4: MPPI, 512 samples (24 more from a policy) x 6 iterations x 3 steps, networks of TD-MPC2's 5 M parameters: latent and
hidden layers of 512, rewards and values in 101 bins, the mean of two critics at the policy's action at the end.
W5: CEM, 350 candidates x 20 particles x 15 steps x 5 iterations, each particle led by one of 7 members of 4 x 200 that
is drawn anew at every step: 525,000 member transitions (a few more: the last iteration scores its own mean too).

Prints the median and the range over the repeats, after two warm-ups, for single and for half precision (bfloat16), and
the rate of a plain matrix product on the same machine at the same moment, without which the times mean nothing: the
products of a plan, counted as they run, would take that long at that rate. `--beside-mbrl` times W5 in mbrl-lib too, in
the same process.
"""  # noqa: D205, D415

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agents.planners import CEM, MPPI, GaussianPlans, Objective, Planner, member_imagine
from benchmarks import beside_mbrl
from worldmodels.distributions import GaussianFamily
from worldmodels.dynamics.ensemble import Ensemble
from worldmodels.errors import ConfigError
from worldmodels.nets import mlp
from worldmodels.types import Rollout, State

LATENT, ACTION, BINS = 512, 6, 101
PEER = {
    "W4 float32": "TD-MPC2 0.350 s",
    "W4 bfloat16": "TD-MPC2 0.227 s",
    "W5 float32": "mbrl-lib 1.48 s",
    "W5 bfloat16": "-",
}
GOAL = {"W4": 0.060, "W5": 0.30}


class Latent(nn.Module):
    """Dynamics, reward, critics and policy of the sizes of W4."""

    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dynamics = mlp(LATENT + ACTION, LATENT, 2, LATENT, norm=True)
        self.reward = mlp(LATENT + ACTION, LATENT, 2, BINS, norm=True)
        self.policy = mlp(LATENT, LATENT, 2, 2 * ACTION, norm=True)
        self.critics = nn.ModuleList(mlp(LATENT + ACTION, LATENT, 2, BINS, norm=True) for _ in range(2))
        self.register_buffer("bins", torch.linspace(-10, 10, BINS))

    def expected(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) @ self.bins.to(logits.dtype)

    def imagine(self, state: State, plan: Tensor, horizon: int) -> Rollout:
        z, latents, inputs = state.z, [state.z], []
        plan = plan.to(z.dtype)
        for t in range(horizon):
            inputs.append(torch.cat([z, plan[:, t]], -1))
            z = self.dynamics(inputs[-1])
            latents.append(z)
        reward = self.expected(self.reward(torch.stack(inputs, 1))).float()
        whole = torch.stack(latents, 1)
        return Rollout(State(whole[..., :0], whole), plan, reward, torch.ones_like(reward), torch.zeros_like(reward))

    def act(self, z: Tensor) -> Tensor:
        mean, spread = self.policy(z).chunk(2, -1)
        return torch.tanh(mean + spread.exp() * torch.randn_like(mean))

    def value(self, z: Tensor) -> Tensor:
        pair = torch.cat([z, self.act(z)], -1)
        return torch.stack([self.expected(critic(pair)) for critic in self.critics]).mean(0).float()

    def propose(self, state: State, horizon: int) -> Tensor:
        z, actions = state.z.expand(24, -1), []
        for _ in range(horizon):
            actions.append(self.act(z))
            z = self.dynamics(torch.cat([z, actions[-1]], -1))
        return torch.stack(actions, 1).unsqueeze(0).float()  # (1, 24, H, A)


def w4() -> tuple[Planner, State]:
    """The planner of W4, and where it begins."""
    model = Latent()
    search = MPPI(GaussianPlans(ACTION), samples=512, iterations=6, elites=64)
    planner = Planner(search, Objective(model.imagine, 0.99, value=model.value), horizon=3, proposals=model.propose)
    z = torch.randn(1, LATENT)
    return planner, State(z[:, :0], z)


def w5(observation: int = 4, action: int = 1) -> tuple[Planner, State]:
    """The planner of W5: a state of 4 numbers, one action, a reward that costs nothing."""
    family = GaussianFamily(observation)
    ensemble = Ensemble(
        family, observation + action, members=7, units=200, layers=4, prior_scale=0.0, keep=1.0, clip=1.0, norm=False
    )
    model = SimpleNamespace(
        ensemble=ensemble,
        temporal_prior=SimpleNamespace(
            advance=lambda state, plan: (torch.cat([state.z, plan], -1), None),
            previous=lambda context: context[..., :observation],
        ),
        reward=lambda features: SimpleNamespace(mean=-features[..., -1].float().square()),
        continuation=lambda features: SimpleNamespace(probs=torch.ones(features.shape[:-1])),
    )
    imagine = member_imagine(model, every_step=True)  # type: ignore[arg-type] - what it asks of a world model
    search = CEM(GaussianPlans(action), samples=350, iterations=5, elites=35)
    z = torch.randn(1, observation)
    start = State(torch.zeros(1, observation + action), z)
    return Planner(search, Objective(imagine, 1.0, particles=20), horizon=15), start


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall times of `repeats` calls, after two that do not count."""
    times = []
    for k in range(repeats + 2):
        began = time.perf_counter()
        call()
        if k >= 2:
            times.append(time.perf_counter() - began)
    return times


def rate(dtype: torch.dtype, repeats: int, size: int = 1024) -> list[float]:
    """GFLOP/s of a product of two square matrices."""
    a, b = torch.randn(2, size, size, dtype=dtype)
    return [2 * size**3 / t / 1e9 for t in seconds(lambda: a @ b, repeats)]


def products(call: Callable[[], object]) -> float:
    """Billions of floating-point operations in the matrix products of one call; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--beside-mbrl", action="store_true", help="W5 in mbrl-lib too, if it is installed")
    args = parser.parse_args(argv)
    try:
        theirs = beside_mbrl.plan() if args.beside_mbrl else None
    except ConfigError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{args.threads} threads, torch {torch.__version__}; median (least to most) of {args.repeats}")
    for dtype in (torch.float32, torch.bfloat16):
        found = rate(dtype, args.repeats)
        name = str(dtype).removeprefix("torch.")
        middle = statistics.median(found)
        print(f"matrix product 1024, {name}: {middle:.0f} ({min(found):.0f} to {max(found):.0f}) GFLOP/s")
        for work, build in (("W4", w4), ("W5", w5)):
            planner, state = build()

            def plan(planner: Planner = planner, state: State = state, dtype: torch.dtype = dtype) -> None:
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    planner.act(state, None, deterministic=True)

            times = seconds(plan, args.repeats)
            took, least = statistics.median(times), products(plan) / middle
            print(
                f"{work} {name}: {took:.3f} s ({min(times):.3f} to {max(times):.3f}); "
                f"goal {GOAL[work]:.3f}, elsewhere {PEER[f'{work} {name}']}; "
                f"products {least * middle:.1f} GFLOP, {least:.3f} s at that rate: {least / took:.0%}"
            )
    if theirs is not None:
        times = seconds(theirs, args.repeats)
        print(f"W5 in mbrl-lib, float32: {statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})")


if __name__ == "__main__":
    main()
