"""Behaviour cloning, the control of every offline method: take the actions of the data in its states."""

from torch import Tensor

from agents.actor_critic import Actor
from worldmodels.heads import masked_mean
from worldmodels.types import Batch, State

LARGEST = 0.99
"""Continuous actions beyond it count as this: at 1 the inverse of the squashing is infinite."""


def clone_loss(actor: Actor, states: State, batch: Batch) -> Tensor:
    """Mean of -log pi(a_t | s_t) over the steps of the data, in nats: a scalar (Pomerleau 1988).

    states: (B, T+1), posterior states of `batch`; their gradient is not followed.
    """
    features = states.detach().features[:, :-1]
    action = batch.action.clamp(-LARGEST, LARGEST) if actor.spec.kind == "continuous" else batch.action
    return -masked_mean(actor(features).log_prob(action), batch.mask)
