import json
import subprocess
import sys

import pytest

from benchmarks.heads import FOLDS, ROWS, summarize
from tests.trained_model import write_pictures
from trainer.config import Config
from trainer.variants import HEADS, VARIANTS


def test_rows_have_names_of_their_own_and_the_recipes_among_them():
    assert len({row.name for row in ROWS}) == len(ROWS)
    trained = {(row.head, row.epochs, row.learning_rate) for row in ROWS}
    recipe = VARIANTS["transfer"].recipes["fast"]
    assert (HEADS[recipe["head"]], recipe["epochs"], recipe["learning_rate"]) in trained
    for row in ROWS:
        Config(variant="transfer", learning_rate=row.learning_rate)


def test_summary_has_the_last_epoch_and_the_one_with_the_lowest_loss():
    runs = [
        {"accuracy": [0.5, 0.9, 0.8], "loss": [0.7, 0.3, 0.4]},
        {"accuracy": [0.5, 0.6, 0.7], "loss": [0.7, 0.5, 0.4]},
    ]
    assert summarize(runs) == {
        "runs": 2,
        "last": 0.75,
        "last_loss": 0.4,
        "best": 0.8,
        "best_loss": 0.35,
        "epoch": 2.5,
    }


@pytest.mark.long
def test_heads_are_judged_on_every_fold_once(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    (tmp_path / "work").mkdir()
    # All but one are known: the command goes on where it was stopped.
    known = [
        {"data": "pictures", "row": row.name, "seeds": 1, "runs": [{"accuracy": [1], "loss": [0]}]}
        for row in ROWS[1:]
    ]
    (tmp_path / "work" / "measured.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in known)
    )
    command = [
        sys.executable,
        "-m",
        "benchmarks.heads",
        f"--data={pictures}",
        "--weights=none",
        "--seeds=1",
        f"--work_dir={tmp_path / 'work'}",
        f"--output={tmp_path / 'heads.json'}",
    ]
    subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    rows = json.loads((tmp_path / "heads.json").read_text())["sets"]["pictures"]
    assert rows.keys() == {row.name for row in ROWS}
    assert rows[ROWS[0].name]["runs"] == FOLDS
