"""What every temporal prior reads out of its context: p(z | context)."""

from torch import Tensor, nn
from torch.distributions import Distribution

from worldmodels.types import LatentFamily


class ContextReader(nn.Module):
    """Contexts (..., D) = [memory], then [last z, last a] where the latent is ordered, and predicted as a change.

    A subclass sets family, head (contexts -> raw parameters of a latent or of its change) and memory, the width of the
    first part.
    """

    family: LatentFamily
    head: nn.Module
    memory: int

    def prior(self, context: Tensor) -> Tensor:
        """(..., D) -> raw parameters (..., P) of p(z | context), a change of the last latent if it is ordered."""
        return self.family.shift(self.head(context), self.previous(context))

    def previous(self, context: Tensor) -> Tensor:
        """(..., D) -> the latent (..., Z) that the context was advanced from; (..., 0) where nothing needs it."""
        return context[..., self.memory : self.memory + self.family.width]

    def forward(self, context: Tensor) -> Distribution:
        """(..., D) -> p(z | context)."""
        return self.family.distribution(self.prior(context))
