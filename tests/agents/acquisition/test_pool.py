"""Scores and batches of points to label, against tables worked out by hand and against brute force."""

from itertools import product
from math import log

import pytest
import torch

from agents.acquisition import (
    BootstrapClassifier,
    bald,
    batch_bald,
    bootstrap,
    core_set,
    epig,
    predictive_entropy,
    random_batch,
    top,
    variational_adversarial,
)
from tests.agents.acquisition.tools import generator, random_log_probs


def joint_information(probs, chosen):
    """I(y_chosen; member) written out over every joint answer: (N, K, C), indices -> nats."""
    members, classes = probs.shape[1:]
    total = 0.0
    for answer in product(range(classes), repeat=len(chosen)):
        likelihood = torch.stack([probs[i, :, c] for i, c in zip(chosen, answer, strict=True)]).prod(0)  # (K,)
        evidence = likelihood.mean()
        total += float((likelihood / members * (likelihood / evidence).log()).sum())
    return total


def test_bald_of_a_small_table_is_what_a_hand_works_out():
    table = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0]],  # two members that are sure of opposite answers: one bit
            [[0.5, 0.5], [0.5, 0.5]],  # noise that all agree on: nothing to learn
            [[0.9, 0.1], [0.5, 0.5]],
        ]
    )
    third = -(0.7 * log(0.7) + 0.3 * log(0.3)) + 0.5 * (0.9 * log(0.9) + 0.1 * log(0.1) - log(2))
    torch.testing.assert_close(bald(table.log()), torch.tensor([log(2), 0.0, third]))
    entropy = torch.tensor([log(2), log(2), -(0.7 * log(0.7) + 0.3 * log(0.3))])
    torch.testing.assert_close(predictive_entropy(table.log()), entropy)


def test_identical_members_have_nothing_to_learn():
    same = random_log_probs(20, 1, 4).expand(-1, 5, -1)
    torch.testing.assert_close(bald(same), torch.zeros(20), atol=1e-6, rtol=0)
    torch.testing.assert_close(epig(same, same), torch.zeros(20), atol=1e-5, rtol=0)
    selection = batch_bald(same, 3, generator=generator())
    torch.testing.assert_close(selection.score, torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_batch_bald_is_greedy_on_the_joint_information_worked_out_by_brute_force(size):
    log_probs = random_log_probs(7, 4, 3, seed=size)
    probs = log_probs.double().exp()
    selection = batch_bald(log_probs, size, generator=generator())
    chosen: list[int] = []
    for _ in range(size):
        left = [i for i in range(7) if i not in chosen]
        chosen.append(max(left, key=lambda i: joint_information(probs, [*chosen, i])))
    assert selection.index.tolist() == chosen
    assert float(selection.score.sum()) == pytest.approx(joint_information(probs, chosen), rel=1e-4)


def test_sampled_joints_approach_the_exact_ones():
    log_probs = random_log_probs(6, 5, 3, seed=3)
    exact = batch_bald(log_probs, 4, generator=generator(), max_configurations=10_000)
    sampled = batch_bald(log_probs, 4, generator=generator(), max_configurations=8_000 // 3**4)
    many = batch_bald(log_probs[exact.index], 4, generator=generator(), max_configurations=20)
    assert len(set(sampled.index.tolist())) == 4
    assert float(many.score.sum()) == pytest.approx(float(exact.score.sum()), rel=0.3)
    precise = batch_bald(log_probs, 6, generator=generator(), max_configurations=200)  # sampled from the fifth on
    chosen = precise.index.tolist()
    assert float(precise.score.sum()) == pytest.approx(joint_information(log_probs.double().exp(), chosen), rel=0.02)


def test_a_copy_adds_only_its_noise_to_a_batch_while_bald_takes_it():
    log_probs = random_log_probs(12, 6, 3, seed=5, sharpness=8.0)
    repeated = log_probs.repeat(3, 1, 1)
    clean = batch_bald(log_probs, 3, generator=generator())
    batch = batch_bald(repeated, 3, generator=generator())
    assert len({int(i) % 12 for i in batch.index}) == 3
    assert {int(i) % 12 for i in batch.index} == set(clean.index.tolist())
    naive = top(bald(repeated), 3)
    assert len({int(i) % 12 for i in naive.index}) == 1


def test_a_batch_of_the_whole_pool_is_the_pool():
    selection = batch_bald(random_log_probs(4, 3, 2), 9, generator=generator(), max_configurations=2)
    assert sorted(selection.index.tolist()) == [0, 1, 2, 3]


def test_epig_is_the_mutual_information_of_two_answers_written_out():
    pool, targets = random_log_probs(5, 4, 3, seed=1), random_log_probs(6, 4, 3, seed=2)
    expected = torch.zeros(5)
    for i in range(5):
        for j in range(6):
            joint = torch.einsum("kc,kd->cd", pool[i].exp(), targets[j].exp()) / 4
            product_ = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
            expected[i] += (joint * (joint / product_).log()).sum() / 6
    torch.testing.assert_close(epig(pool, targets), expected, atol=1e-6, rtol=1e-4)


def test_epig_ignores_what_no_target_depends_on():
    """Members 0/1 against 2/3 differ on the first point alone, 0/2 against 1/3 on the second and on the target."""
    sure = torch.tensor([[0.99, 0.01], [0.01, 0.99]])
    first, second = sure[[0, 0, 1, 1]], sure[[0, 1, 0, 1]]
    pool = torch.stack([first, second]).log()
    scores = epig(pool, second.log().unsqueeze(0))
    assert float(scores[0]) == pytest.approx(0, abs=1e-6)
    assert float(scores[1]) > 0.5
    torch.testing.assert_close(bald(pool)[0], bald(pool)[1])


def test_core_set_covers_by_the_farthest_point_first():
    latents = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [5.0]])
    selection = core_set(latents, torch.tensor([[0.5]]), 3)
    assert selection.index.tolist() == [4, 5, 2]
    torch.testing.assert_close(selection.score, torch.tensor([10.5, 4.5, 1.5]))
    slow = core_set(torch.randn(40, 3, generator=generator()), torch.zeros(0, 3), 5)
    assert len(set(slow.index.tolist())) == 5
    assert (slow.score[1:].diff() <= 0).all()


def test_core_set_is_k_centre_greedy_written_out():
    latents, labelled = torch.randn(30, 4, generator=generator(1)), torch.randn(3, 4, generator=generator(2))
    chosen: list[int] = []
    for _ in range(6):
        centres = torch.cat([labelled, latents[chosen]])
        chosen.append(int(torch.stack([(centres - x).norm(dim=1).min() for x in latents]).argmax()))
    assert core_set(latents, labelled, 6).index.tolist() == chosen


def test_random_batches_repeat_nothing_and_follow_their_generator():
    first, again = (random_batch(50, 20, generator(4)).index for _ in range(2))
    assert len(set(first.tolist())) == 20 and torch.equal(first, again)
    assert not torch.equal(first, random_batch(50, 20, generator(5)).index)


def test_variational_adversarial_asks_for_the_cluster_without_labels_and_leaves_the_random_state():
    near, far = torch.randn(60, 4, generator=generator(1)), torch.randn(60, 4, generator=generator(2)) + 4
    before = torch.get_rng_state()
    selection = variational_adversarial(torch.cat([near, far]), near[:20], 20, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (selection.index >= 60).float().mean() >= 0.9
    again = variational_adversarial(torch.cat([near, far]), near[:20], 20, seed=0)
    assert torch.equal(selection.index, again.index)


@pytest.fixture(scope="module")
def classifier():
    latents = torch.cat([torch.randn(40, 2, generator=generator(7)) * 0.3 + c for c in (-2.0, 2.0)])
    labels = torch.tensor([0] * 40 + [1] * 40)
    fitted = BootstrapClassifier(2, 2, generator=generator(0)).standardize(latents).fit(latents, labels)
    return fitted, latents, labels


def test_classifier_learns_and_its_members_disagree_where_there_is_no_label(classifier):
    fitted, latents, labels = classifier
    with torch.no_grad():
        log_probs = fitted(latents)
        away = fitted(torch.tensor([[-2.0, 2.0], [2.0, -2.0], [-8.0, 8.0]]))
    assert log_probs.shape == (80, 10, 2)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(80, 10))
    assert (log_probs.exp().mean(1).argmax(1) == labels).float().mean() >= 0.98
    assert bald(away).min() > 5 * bald(log_probs).mean()


def test_classifiers_members_share_nothing(classifier):
    fitted, latents, _ = classifier
    logits = fitted(latents)[:, 3].sum()
    (gradient,) = torch.autograd.grad(logits.square(), [fitted.first])
    assert gradient[3].abs().sum() > 0
    assert gradient[[k for k in range(10) if k != 3]].abs().sum() == 0


@pytest.mark.parametrize("labels", [2, 60])
def test_a_classifier_is_trained_as_long_with_few_labels_as_with_many(labels, monkeypatch):
    """No early stopping: members that stopped early would disagree for want of training, and the choice be chance."""
    steps = []
    own = bootstrap.apply_gradients
    monkeypatch.setattr(bootstrap, "apply_gradients", lambda descent: steps.append(1) or own(descent))
    latents = torch.randn(labels, 2, generator=generator())
    BootstrapClassifier(2, 2, generator=generator()).fit(latents, (latents[:, 0] > 0).long(), steps=30)
    assert len(steps) == 30


def test_classifier_needs_a_label():
    with pytest.raises(ValueError, match="at least one label"):
        BootstrapClassifier(2, 2, generator=generator()).fit(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
