"""Known systems to plan in: one with a closed-form optimum, one small enough to enumerate, and every search."""

import itertools

import torch

from agents.planners import CEM, ICEM, MPPI, CategoricalPlans, GaussianPlans, Gradient
from worldmodels.types import Rollout, State

HORIZON = 4
CONTINUOUS = GaussianPlans(2, std=0.5, min_std=1e-3)
DISCRETE = CategoricalPlans((3,))


def searches(family):
    """Name -> every search, with enough candidates to solve the systems below."""
    return {
        "cem": CEM(family, samples=300, iterations=12, elites=20, momentum=0.0),
        "icem": ICEM(family, samples=300, iterations=12, elites=20, momentum=0.0, exponent=0.5, kept=3, decay=1.0),
        "mppi": MPPI(family, samples=300, iterations=12, elites=20, temperature=0.05),
        "gradient": Gradient(family, samples=12, iterations=150, rate=0.05),
    }


class Linear:
    """x' = A x + B u with reward -(x'Q x' + u R u), finite horizon: u_0 = -K x by the Riccati recursion."""

    A = torch.tensor([[1.0, 0.3], [0.0, 0.9]])
    B = torch.tensor([[0.5, 0.0], [0.2, 0.6]])
    Q = torch.tensor([[1.0, 0.2], [0.2, 0.5]])
    R = 0.3 * torch.eye(2)

    def imagine(self, state, plan, horizon):
        """The exact rollout, as a world model's."""
        x, states, rewards = state.z, [state.z], []
        for t in range(horizon):
            u = plan[:, t]
            x = x @ self.A.T + u @ self.B.T
            states.append(x)
            rewards.append(-((x @ self.Q) * x).sum(-1) - ((u @ self.R) * u).sum(-1))
        z = torch.stack(states, 1)
        ones = torch.ones(len(x), horizon)
        return Rollout(State(z[..., :0], z), plan, torch.stack(rewards, 1), ones, torch.zeros_like(ones))

    def optimum(self, x):
        """First action (B, A) and return (B,) of the best plan from x (B, 2)."""
        P, gain = torch.zeros(2, 2), torch.zeros(2, 2)
        for _ in range(HORIZON):
            cost = self.Q + P  # of the state that is reached
            gain = torch.linalg.solve(self.R + self.B.T @ cost @ self.B, self.B.T @ cost @ self.A)
            P = self.A.T @ cost @ (self.A - self.B @ gain)
        return -x @ gain.T, -((x @ P) * x).sum(-1)


class Table:
    """Five states, three actions, random rewards; the best of 3^H plans is found by trying all."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.next = torch.randint(5, (5, 3), generator=generator)
        self.reward = torch.rand(5, 3, generator=generator)

    def score(self, start):
        """The score of plans (B, N, H, 3) from states (B,); it can be differentiated, as by a model's mean."""

        def score(plans):
            at = torch.eye(5)[start].unsqueeze(1).expand(-1, plans.shape[1], -1)  # (B, N, 5), one-hot
            moves = torch.eye(5)[self.next]  # (5, 3, 5)
            total = torch.zeros(plans.shape[:2])
            for t in range(plans.shape[2]):
                pairs = at.unsqueeze(-1) * plans[:, :, t].unsqueeze(-2)  # (B, N, 5, 3)
                total = total + (pairs * self.reward).sum((-1, -2))
                at = torch.einsum("bnsa,sat->bnt", pairs, moves)
            return total

        return score

    def optimum(self, start):
        """Best score (B,) over all plans."""
        plans = torch.eye(3)[torch.tensor(list(itertools.product(range(3), repeat=HORIZON)))]  # (3^H, H, 3)
        return self.score(start)(plans.expand(len(start), -1, -1, -1)).max(-1).values


def nothing(family, batch):
    """No candidates from before."""
    return torch.zeros(batch, 0, HORIZON, family.size)
