"""The labels benchmark runs from end to end, keeps what it measured, and says the right shares."""

import pytest
import torch

from benchmarks import active_learning
from benchmarks.rows import append_row, load_rows, with_interval


@pytest.fixture(scope="module")
def blobs():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 10
    centres = 4 * torch.randn(10, 5, generator=generator)
    return centres[labels] + torch.randn(600, 5, generator=generator), labels


@pytest.mark.parametrize("method", active_learning.METHODS)
def test_every_method_runs_and_no_label_is_bought_twice(method, blobs):
    row = active_learning.learn(method, *blobs, copies=1, seed=0, limit=15)
    counts = [count for count, _ in row["curve"]]
    assert counts[0] == 10 and set(torch.tensor(counts).diff().tolist()) <= {5}
    assert all(0 <= accuracy <= 1 for _, accuracy in row["curve"])


def test_the_table_gives_medians_as_shares_of_randoms():
    rows = [
        {"method": method, "copies": copies, "seed": seed, "reached": [base + seed, None if method == "random" else 90]}
        for method, base in (("random", 100), ("batch_bald", 50))
        for copies in (1, 3)
        for seed in range(3)
    ]
    (line,) = [line for line in active_learning.table(rows).splitlines() if line.startswith("| batch_bald | x1")]
    assert "median 51" in line and "| 0.50 |" in line and line.endswith("| - |")
    assert active_learning.repeated_share(rows, "batch_bald") == [1.0, 1.0]
    assert "never at the median, 0 of 3 reach it" in active_learning.table(rows)


def test_rows_are_kept_and_a_cut_line_is_left_out(tmp_path):
    file = tmp_path / "new" / "rows.jsonl"
    assert load_rows(file) == []
    append_row(file, {"a": 1})
    with file.open("a") as lines:
        lines.write('{"a": ')
    assert load_rows(file) == [{"a": 1}]


def test_intervals_hold_the_mean_and_say_never():
    assert with_interval([1, 2, 3, 4]).startswith("2 [")
    assert with_interval([1, float("inf"), float("inf")]) == "never at the median, 1 of 3 reach it"


@pytest.mark.parametrize("kind", active_learning.LATENTS)
def test_latents_of_all_digits_are_centred_at_one_scale_and_the_same_for_a_seed(kind, monkeypatch):
    monkeypatch.setattr(active_learning, "VAE_STEPS", 20)
    of = active_learning.frozen_latents.__wrapped__
    latents = of(kind, 3)
    assert latents.shape == (1797, active_learning.LATENTS[kind])
    torch.testing.assert_close(latents.mean(0), torch.zeros(latents.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(), torch.tensor(1.0))
    assert torch.equal(latents, of(kind, 3)) and torch.equal(latents, of(kind, 4)) == (kind == "pca")


def test_a_spectral_embedding_has_axes_of_one_spread_and_puts_images_of_a_digit_together(monkeypatch):
    monkeypatch.setattr(active_learning, "VAE_STEPS", 100)
    of = active_learning.frozen_latents.__wrapped__
    _, labels = active_learning.digits()
    spectral = of("spectral", 3)
    torch.testing.assert_close(spectral.std(0), torch.ones(spectral.shape[1]), atol=1e-3, rtol=0)
    own = torch.stack([spectral[labels == digit].var(0).sum() for digit in range(10)])
    assert own.mean() < 0.7 * spectral.var(0).sum()  # 1.0 where axes have nothing to do with what is seen


def test_rows_of_other_latents_are_measured_anew(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.jsonl"
    append_row(file, {"latents": "pca", "method": "random", "copies": 1, "seed": 100, "reached": [1, 2], "curve": []})
    monkeypatch.setattr(active_learning, "VAE_STEPS", 5)
    monkeypatch.setattr(active_learning, "learn", lambda method, latents, labels, **keys: _row(method, latents, **keys))
    words = ["--methods", "random", "--copies", "1", "--seeds", "100", "--json", str(file)]
    assert active_learning.main([*words, "--latents", "pca"]) == 0
    assert len(load_rows(file)) == 1
    assert active_learning.main(words) == 0
    assert [(row["latents"], row["reached"]) for row in load_rows(file)] == [("pca", [1, 2]), ("vae", [16, 16])]
    assert "| random | x1 | 1 | 16" in capsys.readouterr().out


def _row(method, latents, *, copies, seed):
    width = latents.shape[1]
    return {"method": method, "copies": copies, "seed": seed, "reached": [width, width], "curve": []}
