"""The typed options of every world-model part: names, sizes, ranges. No torch here.

A key such as `posterior` names a part; the section of that part's own name holds its sizes.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """Networks that read observations and write them back."""

    units: int = field(default=64, metadata={"min": 1, "max": 4096})
    layers: int = field(default=2, metadata={"min": 1, "max": 8})
    depth: int = field(default=16, metadata={"min": 1, "max": 256})
    """Channels of an image convolution at half the image's size; each halving doubles them, at most three times."""
    patch: Literal[2, 4, 8] = 2
    """Stride of the first image convolution, and side of the blocks that the decoder writes."""
    image_weight: float = field(default=1.0, metadata={"above": 0.0})
    min_scale: float = field(default=0.05, metadata={"above": 0.0, "max": 10.0})
    """Smallest learned standard deviation of the observation likelihoods."""
    standardize: bool = True
    """Centre and scale vectors (in symlog space) and images by the warm-up data, once."""


@dataclass(frozen=True, kw_only=True)
class GaussianOptions:
    """Diagonal Gaussian latent."""

    size: int = field(default=8, metadata={"min": 1, "max": 1024})
    min_std: float = field(default=0.02, metadata={"above": 0.0, "max": 1.0})


@dataclass(frozen=True, kw_only=True)
class CategoricalOptions:
    """A vector of one-hot categoricals."""

    groups: int = field(default=16, metadata={"min": 1, "max": 256})
    classes: int = field(default=16, metadata={"min": 2, "max": 256})
    unimix: float = field(default=0.01, metadata={"min": 0.0, "below": 1.0})


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions:
    """Block-GRU temporal prior."""

    deter: int = field(default=64, metadata={"min": 1, "max": 16384})
    hidden: int = field(default=64, metadata={"min": 1, "max": 4096})
    blocks: int = field(default=1, metadata={"min": 1, "max": 64})
    core_layers: int = field(default=0, metadata={"min": 0, "max": 4})
    """Block-linear layers between the inputs and the gates."""
    prior_layers: int = field(default=2, metadata={"min": 1, "max": 8})


@dataclass(frozen=True, kw_only=True)
class StateSpaceOptions:
    """Gated diagonal state-space temporal prior."""

    deter: int = field(default=64, metadata={"min": 1, "max": 16384})
    """Units of each layer."""
    hidden: int = field(default=64, metadata={"min": 1, "max": 4096})
    layers: int = field(default=2, metadata={"min": 1, "max": 8})
    longest: float = field(default=6.0, metadata={"min": 1.0, "max": 10_000.0})
    """Steps that the slowest unit remembers at first; the fastest remembers one. A third of `replay.length` or less:
    what a unit holds after longer than a window was never trained on."""
    prior_layers: int = field(default=2, metadata={"min": 1, "max": 8})


@dataclass(frozen=True, kw_only=True)
class TransformerOptions:
    """Causal transformer as temporal prior."""

    width: int = field(default=64, metadata={"min": 1, "max": 4096})
    """Of a token and of what is read out; a multiple of `heads`."""
    hidden: int = field(default=128, metadata={"min": 1, "max": 16384})
    layers: int = field(default=2, metadata={"min": 1, "max": 16})
    heads: int = field(default=4, metadata={"min": 1, "max": 64})
    window: int = field(default=8, metadata={"min": 2, "max": 4096})
    """Steps that a token sees, itself included, in training as in the cache. Half of `replay.length` or less: else few
    tokens of a training window see as many as acting does.
    """
    prior_layers: int = field(default=2, metadata={"min": 1, "max": 8})


@dataclass(frozen=True, kw_only=True)
class MarkovOptions:
    """Temporal prior without memory, for observations that say everything."""

    hidden: int = field(default=64, metadata={"min": 1, "max": 4096})
    prior_layers: int = field(default=2, metadata={"min": 1, "max": 8})


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Members that predict the next latent beside the temporal prior, and whose disagreement is epistemic uncertainty.

    kind: `ensemble`, networks of their own, or `epinet`, one network asked with different indices: smaller.
    members: how many; 0 for none. units, layers: size of each. prior_scale: weight of the fixed random function that
    each member adds (0: none). keep: chance that a member is trained on a transition (1: on all). clip: largest norm of
    a member's gradient. norm: layer normalisation.
    """

    kind: Literal["ensemble", "epinet"] = "ensemble"
    members: int = field(default=5, metadata={"min": 0, "max": 128})
    units: int = field(default=64, metadata={"min": 1, "max": 4096})
    layers: int = field(default=2, metadata={"min": 0, "max": 8})
    prior_scale: float = field(default=0.3, metadata={"min": 0.0})
    keep: float = field(default=0.8, metadata={"above": 0.0, "max": 1.0})
    clip: float = field(default=10.0, metadata={"above": 0.0})
    norm: bool = False


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """Coupling flow: of the encoder `flow`, and of the transition prior `flow`."""

    kind: Literal["nice", "realnvp", "nsf"] = "realnvp"
    transforms: int = field(default=4, metadata={"min": 1, "max": 64})
    units: int = field(default=32, metadata={"min": 1, "max": 4096})
    layers: int = field(default=1, metadata={"min": 1, "max": 8})
    bins: int = field(default=8, metadata={"min": 2, "max": 256})
    """Pieces of each spline of `nsf`."""
    noise: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0})
    """Standard deviation of what the encoder adds to standardised observations when it samples; 0: exact likelihood."""
    context: int = field(default=16, metadata={"min": 1, "max": 1024})
    """Numbers out of the temporal prior that a transition flow is conditioned on."""


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Reward and continuation heads."""

    units: int = field(default=64, metadata={"min": 1, "max": 4096})
    layers: int = field(default=2, metadata={"min": 0, "max": 8})
    bins: int = field(default=127, metadata={"min": 3, "max": 4095})
    limit: float = field(default=20.0, metadata={"above": 0.0, "max": 20.0})
    """symlog of the largest reward that can be predicted."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Weights of the loss terms, free nats and balance. They change training, never the reported bound."""

    observation: float = field(default=1.0, metadata={"min": 0.0})
    reward: float = field(default=1.0, metadata={"min": 0.0})
    continuation: float = field(default=1.0, metadata={"min": 0.0})
    dynamics: float = field(default=1.0, metadata={"min": 0.0})
    representation: float = field(default=0.1, metadata={"min": 0.0})
    marginal: float = field(default=1.0, metadata={"min": 0.0})
    ensemble: float = field(default=1.0, metadata={"min": 0.0})
    free_nats: float = field(default=0.3, metadata={"min": 0.0})


@dataclass(frozen=True, kw_only=True)
class WorldModelOptions:
    """A world model: which part plays which role, and each part's section."""

    encoder: str = "vae"
    """`vae`, or `flow`: a bijection of vector observations with an exact likelihood; its latent is as wide as they."""
    posterior: str = "gaussian"
    posterior_sees_context: bool = False
    """q(z | o, h) instead of q(z | o). Without it the temporal prior scans a window with its inputs batched."""
    temporal_prior: str = "recurrent"
    """`recurrent`, or one that is trained in parallel over time: `state_space`, `transformer`, or `markov`,
    which has no memory."""
    transition: Literal["same", "flow"] = "same"
    """Family of p(z' | h): the posterior's own, or a conditional flow over the same latent."""
    norm: bool = True
    """Layer normalisation in every perceptron. Off, few low-dimensional data are fitted more precisely."""
    trunk: TrunkOptions = field(default_factory=TrunkOptions)
    gaussian: GaussianOptions = field(default_factory=GaussianOptions)
    categorical: CategoricalOptions = field(default_factory=CategoricalOptions)
    recurrent: RecurrentOptions = field(default_factory=RecurrentOptions)
    state_space: StateSpaceOptions = field(default_factory=StateSpaceOptions)
    transformer: TransformerOptions = field(default_factory=TransformerOptions)
    markov: MarkovOptions = field(default_factory=MarkovOptions)
    ensemble: EnsembleOptions = field(default_factory=EnsembleOptions)
    flow: FlowOptions = field(default_factory=FlowOptions)
    heads: HeadOptions = field(default_factory=HeadOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
