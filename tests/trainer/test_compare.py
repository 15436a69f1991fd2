import contextlib
import html
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.trained_model import logged, write_pictures
from trainer.compare import Run, compare, table
from trainer.config import Config
from trainer.errors import RunError

TIMEOUT_S = 180


def command(*arguments):
    return [sys.executable, "-m", "trainer.compare", *arguments]


def ask(*arguments):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@dataclass(frozen=True)
class Compared:
    folder: Path
    arguments: list[str]
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of which one run ends well and one cannot: the backbone's weights are no
    weights.
    """
    base = tmp_path_factory.mktemp("compared")
    pictures = write_pictures(base / "pictures", per_class=25)
    (base / "weights.h5").write_bytes(b"no weights")
    arguments = [
        f"--data={pictures}",
        f"--base_weights={base / 'weights.h5'}",
        "--image_size=32",
        "--epochs=1",
        "--variants=transfer,plain",
        "--seeds=3",
        f"--run_dir={base / 'compare'}",
    ]
    return Compared(base / "compare", arguments, ask(*arguments))


@pytest.fixture
def copied(compared, tmp_path):
    """The comparison's folder for a test of its own, with the run that failed left out."""
    folder = shutil.copytree(compared.folder, tmp_path / "compare")
    shutil.rmtree(folder / "transfer-seed3")
    return folder


def settings(compared, folder, **instead):
    """Settings of the run that is done."""
    config = json.loads((compared.folder / "plain-seed3" / "config.json").read_text())
    return Config(**config | {"run_dir": str(folder / "plain-seed3")} | instead)


def test_run_that_fails_is_listed_and_does_not_stop_the_others(compared):
    assert compared.ended.returncode == 2
    last = compared.ended.stderr.splitlines()[-1]
    assert last.startswith("transfer-seed3 failed: exit code 2: --base_weights=")
    assert "Traceback" not in compared.ended.stderr
    assert (
        json.loads((compared.folder / "plain-seed3" / "state.json").read_text())["state"] == "done"
    )


def test_table_has_a_row_for_each_variant_that_is_done(compared):
    header, row = compared.ended.stdout.splitlines()[-2:]
    assert header.split() == [
        "model",
        "runs",
        "test",
        "accuracy",
        "(min",
        "to",
        "max)",
        "n",
        "macro",
        "F1",
        "parameters",
        "ms",
        "MB",
        "seconds",
    ]
    accuracy = json.loads((compared.folder / "plain-seed3" / "result.json").read_text())["test"][
        "accuracy"
    ]
    assert row.startswith("plain ")
    assert f" 1  {accuracy:>13.3f}  ({accuracy:.3f} to {accuracy:.3f})" in row
    assert len(row) == len(header)


def test_json_holds_what_the_runs_found(compared):
    written = json.loads((compared.folder / "compare.json").read_text())
    result = json.loads((compared.folder / "plain-seed3" / "result.json").read_text())
    accuracy = result["test"]["accuracy"]
    assert written["variants"] == {
        "plain": {
            "seeds": [3],
            "n": result["test"]["n"],
            "test": {"mean": accuracy, "min": accuracy, "max": accuracy, "interval_95": None},
            "validation": (
                dict.fromkeys(("mean", "min", "max"), result["validation"]["accuracy"])
                | {"interval_95": None}
            ),
            "macro_f1": result["test"]["macro_f1"],
            "balanced_accuracy": result["test"]["balanced_accuracy"],
            "parameters": result["parameters"],
            "seconds": result["seconds"]["total"],
            "images_per_second": result["images_per_second"],
            "size_bytes": result["export"]["size_bytes"],
            "latency_ms": result["export"]["latency_ms"],
        }
    }
    assert written["paired"] == []
    assert [each["about"] for each in written["reading"]] == ["seeds"]
    failed, done = written["runs"]
    assert (failed["variant"], failed["state"]) == ("transfer", "failed")
    assert "weights.h5: cannot be loaded as mobilenet_v2" in failed["reason"]
    assert (done["state"], done["split"], done["test"]) == (
        "done",
        result["data"]["digest"],
        result["test"],
    )
    assert not list(compared.folder.glob("*.part"))


def test_runs_are_passed_the_flags_that_were_given(compared):
    config = json.loads((compared.folder / "plain-seed3" / "config.json").read_text())
    assert (config["image_size"], config["epochs"], config["seed"], config["variant"]) == (
        32,
        1,
        3,
        "plain",
    )
    assert config["run_dir"] == str(compared.folder / "plain-seed3")


def test_second_call_does_nothing_again(compared, copied):
    before = {path: path.stat().st_mtime_ns for path in (copied / "plain-seed3").rglob("*")}
    ended = ask(*compared.arguments, "--variants=plain,plain", f"--run_dir={copied}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "run 1 of 1: plain-seed3, done already"
    assert {path: path.stat().st_mtime_ns for path in (copied / "plain-seed3").rglob("*")} == before


def test_done_run_with_other_settings_is_refused_and_kept(compared, copied):
    ended = ask(
        *compared.arguments,
        "--variants=plain",
        f"--run_dir={copied}",
        "--epochs=2",
        "--batch_size=16",
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr
        == f"compare.py: error: {copied}/plain-seed3: done with other settings (--batch_size=32,"
        " now 16; --epochs=1, now 2); give another --run_dir, or remove this folder\n"
    )
    assert (copied / "plain-seed3" / "result.json").exists()


def failing(run):
    """The same run with a command that fails at once."""

    class Failing(Run):
        command = (sys.executable, "-c", "raise SystemExit(7)")

    return Failing(run.config, run.arguments)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ({"state": "failed"}, False),
        ({"state": "failed", "resumable": True}, True),
        ({"state": "incomplete"}, True),
    ],
)
def test_failed_run_begins_with_an_empty_folder_and_a_stopped_one_goes_on(
    compared, copied, state, kept
):
    (copied / "plain-seed3" / "state.json").write_text(json.dumps(state))
    problems = compare([failing(Run(settings(compared, copied), []))], copied)
    assert problems == ["plain-seed3 failed: exit code 7"]
    assert (copied / "plain-seed3").exists() == kept


def test_folder_that_holds_no_run_is_not_removed(compared, copied):
    (copied / "plain-seed3" / "state.json").unlink()
    compare([failing(Run(settings(compared, copied), []))], copied)
    assert (copied / "plain-seed3" / "result.json").exists()


def test_runs_on_different_pictures_are_told_and_seeds_are_summed_up(compared, copied):
    other = shutil.copytree(copied / "plain-seed3", copied / "plain-seed4")
    result = json.loads((other / "result.json").read_text())
    judged = {"test": result["test"] | {"accuracy": 0.25}, "data": {"digest": "0123456789"}}
    (other / "result.json").write_text(json.dumps(result | judged))
    config = settings(compared, copied, seed=4, run_dir=str(other))
    (other / "config.json").write_text(json.dumps(asdict(config)))
    runs = [Run(settings(compared, copied), []), Run(config, [])]
    (problem,) = compare(runs, copied)
    digest = result["data"]["digest"][:8]
    assert problem.startswith(
        "the runs do not share one split, as the pictures changed between them "
    )
    assert f"({digest}: plain-seed3; 01234567: plain-seed4)" in problem
    plain = json.loads((copied / "compare.json").read_text())["variants"]["plain"]
    accuracy = result["test"]["accuracy"]
    assert plain["seeds"] == [3, 4]
    low, high = plain["test"].pop("interval_95")
    assert 0 <= low < high <= 1
    assert plain["test"] == {"mean": (accuracy + 0.25) / 2, "min": 0.25, "max": accuracy}


def test_report_says_how_a_variant_does_against_the_one_before(compared, copied):
    other = shutil.copytree(copied / "plain-seed3", copied / "augmented-seed3")
    lines = [json.loads(line) for line in (other / "predictions.jsonl").read_text().splitlines()]
    right = "".join(json.dumps(line | {"predicted": line["label"]}) + "\n" for line in lines)
    (other / "predictions.jsonl").write_text(right)
    config = settings(compared, copied, variant="augmented", run_dir=str(other))
    (other / "config.json").write_text(json.dumps(asdict(config)))
    with logged() as said:
        assert not compare([Run(settings(compared, copied), []), Run(config, [])], copied)
    assert f"report {copied / 'report.html'}" in said
    written = json.loads((copied / "compare.json").read_text())
    (pair,) = written["paired"]
    wrong = sum(line["split"] == "test" and line["label"] != line["predicted"] for line in lines)
    assert (pair["first"], pair["second"], pair["test"]["only_first"]) == ("plain", "augmented", 0)
    assert pair["test"]["only_second"] == wrong
    page = (copied / "report.html").read_text()
    assert html.escape(written["reading"][0]["text"], quote=False) in page
    assert page.count('src="data:image/png;base64,') == 3


def test_run_of_an_earlier_version_is_named_in_one_line(compared, copied):
    result = copied / "plain-seed3" / "result.json"
    old = json.loads(result.read_text())
    del old["export"]
    result.write_text(json.dumps(old))
    with pytest.raises(
        RunError,
        match=r"written by an earlier version of Whisker \(export is missing in result\.json\)",
    ):
        compare([Run(settings(compared, copied), [])], copied)


def test_result_that_cannot_be_read_is_named_in_one_line(compared, copied):
    (copied / "plain-seed3" / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"result\.json: cannot be read .* remove the folder"):
        compare([Run(settings(compared, copied), [])], copied)


def test_sigterm_ends_the_run_and_a_second_comparison_waits_outside(compared, tmp_path):
    folder = tmp_path / "compare"
    arguments = [*compared.arguments, "--variants=plain", f"--run_dir={folder}", "--epochs=100000"]
    # A session of its own: whatever goes wrong here, no run outlives the test.
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert any(line.startswith("epoch ") for line in process.stdout)
            second = subprocess.run(
                command(*arguments, "--epochs=1"),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            process.send_signal(signal.SIGTERM)
            # Both pipes end when the run has ended too.
            _, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (second.returncode, second.stdout) == (2, "")
    assert (
        "another comparison, or a run that a killed comparison left behind, is at" in second.stderr
    )
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.endswith("compare.py: error: stopped; the same command resumes from here\n")
    assert json.loads((folder / "plain-seed3" / "state.json").read_text())["state"] == "incomplete"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--variant=plain",
            "--variant=plain: a comparison trains several variants; use --variants",
        ),
        ("--seed=1", "--seed=1: a comparison takes several seeds; use --seeds"),
        (
            "--model_dir=models",
            "--model_dir=models: a comparison publishes nothing; train what you choose with",
        ),
        (
            "--seeds=0,one",
            "--seeds=0,one: expected whole numbers separated by commas, such as 0,1,2",
        ),
        (
            "--variants=plain,transfr",
            "--variant=transfr: expected one of plain, augmented, preprocessed, transfer;",
        ),
        (
            "--run_dir=gs://bucket/x",
            "--run_dir=gs://bucket/x: a comparison keeps its runs on this machine;",
        ),
        ("pictures", "pictures: expected flags only, such as --data=pictures"),
        ("--data=/nowhere", "--data=/nowhere: there is no such folder; expected one folder of"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(argument, message):
    ended = ask(argument)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"compare.py: error: {message}")
    assert ended.stderr.count("\n") == 1


def test_table_is_aligned_and_has_the_spread_over_seeds():
    row = {
        "seeds": [0, 1, 2],
        "n": 1000,
        "test": {"mean": 0.97, "min": 0.965, "max": 0.9801},
        "macro_f1": 0.9687,
        "parameters": {"total": 2_422_081},
        "latency_ms": 12.34,
        "size_bytes": 10_460_000,
        "seconds": 81.4,
    }
    assert table({"transfer": row, "plain": row | {"seeds": [0], "seconds": 1200.0}}) == [
        "model     runs  test accuracy      (min to max)      n  macro F1  parameters    ms    MB"
        "  seconds",
        "transfer     3          0.970  (0.965 to 0.980)  1,000     0.969   2,422,081  12.3  10.5"
        "       81",
        "plain        1          0.970  (0.965 to 0.980)  1,000     0.969   2,422,081  12.3  10.5"
        "     1200",
    ]


@pytest.mark.parametrize("flag", ["--variants=plain", "--backbone=densenet121"])
def test_backbones_go_with_neither_variants_nor_one_backbone(flag):
    ended = ask("--data=sample", "--backbones=mobilenet_v2,densenet121", flag)
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        f"error: {flag}: with --backbones, the backbones of transfer are compared; leave this flag"
        " out\n"
    )


def test_one_file_of_weights_is_not_for_several_backbones():
    ended = ask("--data=sample", "--backbones=mobilenet_v2,densenet121", "--base_weights=w.h5")
    assert ended.returncode == 2
    assert "--base_weights=w.h5: a file holds the weights of one backbone" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_run_of_a_backbone_is_named_after_it():
    config = Config(variant="transfer", backbone="densenet121", seed=2, run_dir="runs/x")
    run = Run(config, ["--data=sample"], "backbone")
    assert run.model == "densenet121"
    assert run.command[3:] == [
        "--data=sample",
        "--variant=transfer",
        "--backbone=densenet121",
        "--seed=2",
        "--run_dir=runs/x",
    ]


def test_nothing_done_gives_no_table():
    assert table({}) == []
