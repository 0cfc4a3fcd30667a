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
