"""Distributions against closed forms, torch's own and slow sums."""

from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worldmodels.distributions import (
    CategoricalFamily,
    GaussianFamily,
    ImageNormal,
    StraightThroughCategoricals,
    SymlogNormal,
    TanhNormal,
    TwoHot,
    sample_one_hot,
    symexp,
    symlog,
    two_hot_bins,
)
from worldmodels.distributions.gaussian import squash, unsquash
from worldmodels.distributions.image import image_to_float
from worldmodels.distributions.two_hot import two_hot

FAMILIES = {"gaussian": GaussianFamily(3), "categorical": CategoricalFamily(3, 4)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@given(st.floats(-1e6, 1e6))
def test_symlog_is_the_signed_logarithm_and_symexp_its_inverse(x):
    value = torch.tensor(x, dtype=torch.float64)
    expected = log(1 + abs(x)) if x >= 0 else -log(1 + abs(x))
    assert symlog(value).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert symexp(symlog(value)).item() == pytest.approx(x, rel=1e-9, abs=1e-12)


@given(st.floats(-1e4, 1e4), st.floats(-10, 10), st.floats(0.05, 50))
def test_squash_is_inverted_and_has_the_slope_of_standardising_at_its_centre(x, center, spread):
    x, center, spread = (torch.tensor(v, dtype=torch.float64) for v in (x, center, spread))
    back = unsquash(squash(x, center, spread), center, spread)
    assert back.item() == pytest.approx(x.item(), rel=1e-9, abs=1e-9)
    step = 1e-6 * spread
    slope = (squash(center + step, center, spread) - squash(center - step, center, spread)) / (2 * step)
    assert slope.item() == pytest.approx(1 / spread.item(), rel=1e-5)


def test_gaussian_agrees_with_torch(family=FAMILIES["gaussian"]):
    raw = torch.randn(5, family.parameters)
    mean, std = family.moments(raw)
    torch_normal = Independent(Normal(mean, std), 1)
    z = family.sample(raw)
    torch.testing.assert_close(family.log_prob(raw, z), torch_normal.log_prob(z))
    torch.testing.assert_close(family.entropy(raw), torch_normal.entropy())
    torch.testing.assert_close(family.distribution(raw).log_prob(z), torch_normal.log_prob(z))
    other = torch.randn(5, family.parameters)
    expected = torch.distributions.kl_divergence(torch_normal, family.distribution(other))
    torch.testing.assert_close(family.kl(raw, other), expected)
    assert (std >= family.min_std).all()


def test_categorical_agrees_with_torch(family=FAMILIES["categorical"]):
    raw, other = torch.randn(5, family.parameters), torch.randn(5, family.parameters)
    own, torch_other = (
        Independent(torch.distributions.OneHotCategorical(probs=family.probs(r)), 1) for r in (raw, other)
    )
    z = family.sample(raw)
    blocks = z.unflatten(-1, (3, 4))
    assert (blocks.sum(-1) == 1).all() and ((blocks == 0) | (blocks == 1)).all()
    torch.testing.assert_close(family.log_prob(raw, z), own.log_prob(blocks))
    torch.testing.assert_close(family.entropy(raw), own.entropy())
    torch.testing.assert_close(family.distribution(raw).log_prob(z), own.log_prob(blocks))
    torch.testing.assert_close(family.distribution(raw).entropy(), own.entropy())
    torch.testing.assert_close(family.kl(raw, other), torch.distributions.kl_divergence(own, torch_other))


def test_closed_form_kl_is_the_expectation_of_its_one_sample_estimate(family):
    q, p = torch.randn(family.parameters), torch.randn(family.parameters)
    many = q.expand(100_000, -1)
    z = family.sample(many)
    estimate = family.log_prob(many, z) - family.log_prob(p.expand(100_000, -1), z)
    error = estimate.std() / sqrt(len(estimate))
    assert abs(estimate.mean() - family.kl(q, p)) < 4 * error
    assert family.kl(q, q).abs() < 1e-6
    assert family.kl(q, p) > 0


def test_entropy_is_the_expectation_of_minus_log_prob(family):
    raw = torch.randn(family.parameters).expand(100_000, -1)
    nats = -family.log_prob(raw, family.sample(raw))
    assert abs(nats.mean() - family.entropy(raw[0])) < 4 * nats.std() / sqrt(len(nats))


def test_mode_is_where_the_density_is_highest(family):
    raw = torch.randn(1, family.parameters)
    best = family.log_prob(raw, family.mode(raw))
    assert (family.log_prob(raw, family.sample(raw.expand(500, -1))) <= best + 1e-6).all()


def test_uniform_mix_is_a_floor_under_every_class():
    family = CategoricalFamily(2, 4, unimix=0.01)
    raw = torch.tensor([[1e4, 0, 0, 0, -1e4, 0, 0, 1e4]])
    probs = family.probs(raw)
    assert probs.min().item() == pytest.approx(0.01 / 4)
    torch.testing.assert_close(probs.sum(-1), torch.ones(1, 2))
    assert torch.isfinite(family.kl(raw, -raw)).all()


def test_unimix_of_the_action_distribution_is_the_same_mix():
    logits = torch.randn(6, 5) * 20
    mixed = StraightThroughCategoricals(logits, (2, 3), unimix=0.1)
    for block, log_probs in zip(logits.split((2, 3), -1), mixed.log_probs, strict=True):
        torch.testing.assert_close(log_probs.exp(), 0.9 * block.softmax(-1) + 0.1 / block.shape[-1])
    assert torch.isfinite(torch.stack([lp.min() for lp in mixed.log_probs])).all()


def test_sample_one_hot_has_the_right_frequencies():
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    counts = sample_one_hot(probs.expand(200_000, -1)).sum(0)
    assert counts[1] == 0
    chi2 = ((counts - 200_000 * probs).square() / (200_000 * probs).clamp(min=1)).sum()
    assert chi2 < 16.3  # three degrees of freedom, p > 0.001


def test_sample_one_hot_keeps_within_range_where_rounding_pushes():
    probs = torch.full((10_000, 7), 1 / 7, dtype=torch.float16).float() * 0.999
    assert (sample_one_hot(probs).sum(-1) == 1).all()


def test_straight_through_gradient_is_that_of_the_probabilities():
    family = CategoricalFamily(1, 4)
    raw = torch.randn(200, 4, requires_grad=True)
    weight = torch.randn(200, 4)
    for one_hot in (family.sample(raw), StraightThroughCategoricals(raw, (4,)).rsample()):
        assert ((one_hot == 0) | (one_hot == 1)).all()  # exactly, not up to rounding
    (straight,) = torch.autograd.grad((family.sample(raw) * weight).sum(), raw)
    (expected,) = torch.autograd.grad((family.probs(raw).flatten(-2) * weight).sum(), raw)
    torch.testing.assert_close(straight, expected)
    logits = torch.randn(200, 4, requires_grad=True)
    sample = StraightThroughCategoricals(logits, (4,)).rsample()
    (straight,) = torch.autograd.grad((sample * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(straight, expected)


def test_gaussian_sample_is_reparameterised():
    family = FAMILIES["gaussian"]
    raw = torch.randn(2, family.parameters, requires_grad=True)
    torch.manual_seed(7)
    z = family.sample(raw)
    torch.manual_seed(7)
    noise = torch.randn(2, 3)
    mean, std = family.moments(raw)
    torch.testing.assert_close(z, mean + std * noise)
    (gradient,) = torch.autograd.grad(z.sum(), raw)
    torch.testing.assert_close(gradient[:, :3], torch.ones(2, 3))


def test_shift_moves_the_mean_alone_and_sharpen_narrows_the_spread_alone():
    family = FAMILIES["gaussian"]
    raw, z = torch.randn(2, 6), torch.randn(2, 3)
    mean, std = family.moments(raw)
    shifted_mean, shifted_std = family.moments(family.shift(raw, z))
    torch.testing.assert_close(shifted_mean, mean + z)
    torch.testing.assert_close(shifted_std, std)
    sharp_mean, sharp_std = family.moments(family.sharpen(raw))
    torch.testing.assert_close(sharp_mean, mean)
    assert (sharp_std < std).all()
    other = FAMILIES["categorical"]
    logits = torch.randn(2, 12)
    assert other.shift(logits, logits) is logits and other.sharpen(logits) is logits


def symlog_normal():
    moments = (torch.tensor([0.3]), torch.tensor([0.4]), torch.tensor([2.0]), torch.tensor([3.0]))
    return SymlogNormal(*(m.double() for m in moments))


def test_symlog_normal_integrates_to_one():
    grid = torch.linspace(-60, 80, 400_001, dtype=torch.float64)
    density = symlog_normal().log_prob(grid.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)


def test_symlog_normal_jacobian_is_autograds():
    x = torch.tensor([-20.0, -1.0, 1.9, 2.5, 40.0], dtype=torch.float64, requires_grad=True)
    normal = symlog_normal()
    u = squash(x, normal.center, normal.spread)
    (slope,) = torch.autograd.grad(u.sum(), x)
    expected = Normal(normal.mean_u, normal.std_u).log_prob(u) + slope.log()
    torch.testing.assert_close(normal.log_prob(x.unsqueeze(-1)), expected)


def test_symlog_normal_samples_have_its_density():
    normal = symlog_normal()
    x = normal.rsample(torch.Size((200_000,)))[:, 0]
    assert normal.has_rsample
    grid = torch.linspace(-60, 80, 100_001, dtype=torch.float64)
    density = normal.log_prob(grid.unsqueeze(-1)).exp()
    mean = torch.trapezoid(density * grid, grid)
    assert abs(x.mean() - mean) < 4 * x.std() / sqrt(len(x))
    assert (x <= normal.mode.item()).double().mean().item() == pytest.approx(0.5, abs=0.01)  # the median


def test_tanh_normal_agrees_with_torchs_transformed_distribution():
    mean, std = torch.randn(50, 2, dtype=torch.float64), torch.rand(50, 2, dtype=torch.float64) + 0.1
    own = TanhNormal(mean, std)
    action = own.rsample().clamp(-1 + 1e-7, 1 - 1e-7)
    reference = Independent(TransformedDistribution(Normal(mean, std), [TanhTransform()]), 1)
    inside = action.abs().amax(-1) < 1 - 1e-5
    assert inside.sum() > 40
    torch.testing.assert_close(own.log_prob(action)[inside], reference.log_prob(action)[inside])
    assert torch.isfinite(own.log_prob(torch.ones(50, 2, dtype=torch.float64))).all()  # an action at the edge


def test_tanh_normal_entropy_estimate_is_right_on_average_and_has_the_reparameterised_gradient():
    mean = torch.full((200_000, 1), 0.5, requires_grad=True)
    entropy = TanhNormal(mean, torch.full_like(mean, 0.7)).entropy()
    grid = torch.linspace(-1 + 1e-7, 1 - 1e-7, 400_001, dtype=torch.float64)
    one = TanhNormal(torch.tensor([0.5]).double(), torch.tensor([0.7]).double())
    log_density = one.log_prob(grid.unsqueeze(-1))
    expected = -torch.trapezoid(log_density.exp() * log_density, grid)
    assert abs(entropy.mean().double() - expected) < 4 * entropy.std() / sqrt(len(entropy)) + 1e-3
    (gradient,) = torch.autograd.grad(entropy.mean(), mean)
    assert gradient.sum() < 0  # towards the centre, where the squashing compresses least


def test_trap_bins_uniform_in_linear_instead_of_symexp_space():
    bins = two_hot_bins(255, 20.0)
    steps = symlog(bins.double()).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 40 / 254), rtol=1e-4, atol=1e-5)
    assert bins.diff().max() / bins.diff().min() > 1e6  # far from uniform in the values themselves
    assert (bins == -bins.flip(0)).all() and bins[127] == 0
    even = two_hot_bins(10, 3.0)
    assert len(even) == 10 and torch.equal(even, even.sort().values)


@given(st.floats(-1e5, 1e5))
def test_two_hot_is_the_obvious_interpolation(x):
    bins = two_hot_bins(41, 20.0)
    value = torch.tensor(x, dtype=torch.float32)
    weights = two_hot(value, bins)
    k = max(i for i in range(40) if bins[i] <= value)
    expected = torch.zeros(41, dtype=torch.float64)
    share = (value.double() - bins[k].double()) / (bins[k + 1].double() - bins[k].double())
    expected[k], expected[k + 1] = 1 - share, share
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)
    assert (weights * bins).sum().item() == pytest.approx(value.item(), rel=1e-4, abs=1e-4)
    assert (weights > 0).sum() <= 2


def test_two_hot_clips_to_the_outer_bins():
    bins = two_hot_bins(21, 5.0)
    assert two_hot(torch.tensor([-1e9, 1e9]), bins)[[0, 1], [0, 20]].tolist() == [1.0, 1.0]


def test_two_hot_loss_is_cross_entropy_and_its_mean_the_expectation():
    bins = two_hot_bins(21, 5.0)
    logits = torch.randn(4, 3, 21)
    value = torch.randn(4, 3) * 10
    head = TwoHot(logits, bins)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), two_hot(value, bins).flatten(0, 1), reduction="none"
    ).view(4, 3)
    torch.testing.assert_close(-head.log_prob(value), expected)
    torch.testing.assert_close(head.mean, (logits.softmax(-1) * bins).sum(-1), rtol=1e-5, atol=1e-5)
    assert TwoHot(torch.zeros(2, 255), two_hot_bins(255, 20.0)).mean.tolist() == [0.0, 0.0]


def test_two_hot_fitted_by_its_loss_predicts_the_mean_of_noisy_values():
    bins = two_hot_bins(255, 20.0)
    values = torch.tensor([0.0, 10.0, 10.0, 40.0])
    optimal = two_hot(values, bins).mean(0).clamp(min=1e-30).log()  # the minimiser of the mean cross-entropy
    assert TwoHot(optimal, bins).mean.item() == pytest.approx(15, rel=1e-4)


def test_image_normal_is_torchs_normal_of_the_float_image():
    image = torch.randint(256, (2, 5, 4, 3), dtype=torch.uint8)
    mean, std = torch.randn(2, 3, 5, 4) * 0.1, torch.tensor(0.3)
    reference = Independent(Normal(mean, std), 3).log_prob(image_to_float(image))
    torch.testing.assert_close(ImageNormal(mean, std).log_prob(image), reference)
    exact = ImageNormal(image_to_float(image), std)
    assert torch.equal(exact.mode, image)


def test_image_is_scaled_once_and_only_from_uint8():
    assert image_to_float(torch.full((2, 2, 1), 255, dtype=torch.uint8)).unique().tolist() == [0.5]
    assert image_to_float(torch.zeros(2, 2, 1, dtype=torch.uint8)).unique().tolist() == [-0.5]
    with pytest.raises(TypeError, match="uint8"):
        image_to_float(torch.ones(2, 2, 1))


def test_reparameterised_distributions_say_so():
    ones = torch.ones(2)
    for distribution in (
        SymlogNormal(ones, ones, ones, ones),
        TanhNormal(ones, ones),
        StraightThroughCategoricals(ones, (2,)),
    ):
        assert distribution.has_rsample
        assert distribution.sample().shape == (2,)


def test_gaussian_spread_is_bounded_below_and_above():
    family = GaussianFamily(1, 0.05)
    std = family.moments(torch.tensor([[0.0, -1e4], [0.0, 1e4]]))[1]
    assert std.flatten().tolist() == pytest.approx([0.05, 2.05])
    sharp = family.moments(family.sharpen(torch.zeros(1, 2)))[1].item()
    assert sharp == pytest.approx(2 / (1 + exp(4)) + 0.05, rel=1e-5)
