"""The table of likelihoods: one row a model, exact and bound told apart."""

from benchmarks.likelihood import MODELS, STEPS, main, windows


def test_windows_are_of_a_noisy_pendulum():
    batch = windows(1, seed=0)
    assert batch.obs["obs"].shape == (10, STEPS + 1, 3) and batch.action.abs().max() <= 1
    radius = batch.obs["obs"][..., :2].norm(dim=-1)
    assert 0.02 < radius.std() < 0.1 and abs(radius.mean() - 1) < 0.05


def test_every_model_has_a_row_that_says_what_its_number_is(capsys):
    assert main(["--seeds", "1", "--updates", "2", "--samples", "3", "--episodes", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(MODELS)
    assert [row.split(" | ")[-1].strip(" |") for row in rows] == ["bound", "bound", "exact", "exact"]
