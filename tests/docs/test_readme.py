"""README, the pages in docs/ and the examples are executed: every block runs here, or says what
runs it. Their numbers are those of the benchmarks.
"""

import ast
import base64
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import h5py
import keras
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from serving.config import batching, monitoring, tls
from tests.docs.pages import PAGES, README, ROOT
from tests.trained_model import write_pictures

# The first of them runs all commands of all pages, one after the other.
pytestmark = pytest.mark.timeout(900)

BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
ON_README = README.read_text(encoding="utf-8")
READY_TIMEOUT_S = 120
PICTURES = ["my_pictures/cats/1.jpg", "my_pictures/dogs/2.jpg"]


@dataclass(frozen=True)
class Block:
    marker: str  # what runs it, or why nothing does; empty: it runs here
    language: str
    text: str


BLOCKS = [
    Block(*found)
    for page in PAGES
    for found in re.findall(
        r"(?:<!-- ([^\n]+?) -->\n)?^ *```(\w*)\n(.*?)^ *```$",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
]
TAKEN_BELOW = re.findall(r'\bblock\("(.+?)"\)', Path(__file__).read_text(encoding="utf-8"))
# What is run; `text` is what a command prints, or a tree of files.
LANGUAGES = ("sh", "python")


def block(start):
    return next(block for block in BLOCKS if start in block.text)


def test_every_block_says_what_it_is():
    assert {block.language for block in BLOCKS} <= {*LANGUAGES, "text"}


def test_every_marker_names_something_that_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for marked in (block for block in BLOCKS if block.marker):
        kind, _, runner = marked.marker.partition(": ")
        if kind == "runs in" and runner.startswith("make "):
            assert re.search(rf"^{runner.removeprefix('make ')}:", makefile, re.MULTILINE), marked
            assert marked.text.strip() == runner
        elif kind == "runs in":
            assert (ROOT / runner).is_file(), marked
            # Those of this file are taken from their page by a test below.
            assert ROOT / runner != Path(__file__) or any(
                start in marked.text for start in TAKEN_BELOW
            ), marked
        else:
            assert kind == "not run", marked


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_accuracies_of_heads_are_those_of_the_ablation():
    measured = results("heads")
    means = {
        head: sum(rows[head]["last"] for rows in measured["sets"].values()) / len(measured["sets"])
        for head in measured["heads"]
    }
    assert max(means, key=means.__getitem__) == "multiscale"
    for name, rows in measured["sets"].items():
        cells = " | ".join(f"{rows[head]['last']:.3f}" for head in measured["heads"])
        assert f"| {name} | {cells} |" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS


def test_numbers_of_answers_are_those_of_the_benchmark():
    measured = results("answers")
    for part, name in (
        ("strangers", "unsure_strangers"),
        ("strangers", "unsure_own"),
        ("heatmaps", "occlusion"),
        ("heatmaps_of_wide", "occlusion"),
        ("heatmaps_of_wide", "Grad-CAM"),
    ):
        shares = [100 * found[name] for found in measured[part].values()]
        assert f"{min(shares):.1f} to {max(shares):.1f} %" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS


def accuracy_rows():
    """Rows of the table of accuracies, from the benchmark's results."""
    for name, found in results("accuracy")["sets"].items():
        for row in found["rows"]:
            ahead = ""
            if against := row["against"]:
                low, high = against["interval_95"]
                ahead = f"{against['name']}: {against['points']:+.1f} ({low:+.1f} to {high:+.1f})"
            yield (
                f"| {name} | {row['name']} | {len(row['seeds'])} | {row['mean']:.3f} |"
                f" {row['min']:.3f} to {row['max']:.3f} | {ahead} |"
            )


def test_accuracies_are_those_of_the_benchmark():
    for row in accuracy_rows():
        assert row in BENCHMARKS
    measured = results("accuracy")
    for commit in measured["commits"]:
        assert commit[:7] in BENCHMARKS
    assert measured["date"] in BENCHMARKS
    scratch = results("scratch")
    for row in scratch["recipes"]:
        test = row["test"]
        numbers = (
            f"{len(row['seeds'])} | {test['mean']:.3f} | {test['min']:.3f} to {test['max']:.3f}"
        )
        assert f"| {row['name']} | {numbers} |" in BENCHMARKS
    for commit in scratch["commits"]:
        assert commit[:7] in BENCHMARKS
    assert scratch["date"] in BENCHMARKS


def test_speeds_are_those_of_the_benchmark():
    measured = results("training")
    for variant in ("plain", "augmented", "preprocessed"):
        speed = measured["variants"][variant]["images_per_second"]
        stock, whisker, float32 = (
            speed[name]["median"] for name in ("stock", "whisker", "whisker_float32")
        )
        ratio = speed["ratio"]
        numbers = (
            f"{stock:.0f} | {whisker:.0f} | {ratio['whisker']:.2f} | {float32:.0f} |"
            f" {ratio['whisker_float32']:.2f}"
        )
        assert f"| `{variant}` | {numbers} |" in BENCHMARKS
    transfer = measured["variants"]["transfer"]
    for side, seconds in ((side, transfer["seconds"][side]) for side in ("whisker", "stock")):
        assert f"{seconds['median']:.1f} s" in BENCHMARKS
        assert f"({seconds['min']:.1f} to {seconds['max']:.1f})" in BENCHMARKS
        assert f"{transfer['test_accuracy'][side]['median']:.3f}" in BENCHMARKS
    assert f"{transfer['seconds']['ratio']['whisker']:.1f} times less" in BENCHMARKS
    assert measured["environments"][0]["commit"][:7] in BENCHMARKS


def test_answers_a_second_are_those_of_the_benchmark():
    measured = results("serving")
    for name, contender in (
        ("Whisker", "whisker"),
        ("with batching", "whisker_batching"),
        ("`--xnnpack`", "whisker_xnnpack"),
        ("FastAPI", "fastapi"),
        ("LitServe", "litserve"),
        ("LitServe, batching", "litserve_batching"),
        ("BentoML", "bentoml"),
        ("BentoML, batching", "bentoml_batching"),
        ("the model alone", "model_in_a_loop"),
        ("in batches", "model_in_batches"),
        ("in XNNPACK", "xnnpack_in_a_loop"),
        ("empty gRPC", "echo"),
    ):
        summary = measured["summary"][contender].values()
        cells = (f"{of_clients['per_second']['median']:.0f}" for of_clients in summary)
        assert f"| {name} | {' | '.join(cells)} |" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS
    assert measured["date"] in BENCHMARKS


def test_speeds_of_input_are_those_of_the_benchmark():
    measured = results("input")
    for side, passes in measured["sides"].items():
        digits = 0 if side == "stock" else 2
        cells = " | ".join(
            f"{passes[part]['median']:,.0f} | {passes[part]['ratio']:.{digits}f}"
            for part in ("first", "later")
        )
        name = side if side == "stock" else f"`--cache={side}`"
        assert f"| {name} | {cells} | {passes['peak_mb']:.0f} MB |" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS
    assert measured["date"] in BENCHMARKS


def test_accuracies_of_variants_are_those_of_the_comparison():
    measured = results("compare")
    for variant, found in measured["variants"].items():
        test = found["test"]
        low, high = test["interval_95"]
        cells = (
            f"{len(found['seeds'])} | {test['mean']:.3f} | {test['min']:.3f} to {test['max']:.3f} |"
            f" {low:.3f} to {high:.3f} | {found['parameters']['total']:,}"
        )
        assert f"| `{variant}` | {cells} |" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS
    assert measured["date"] in BENCHMARKS


def test_costs_of_backbones_are_those_of_the_comparison():
    measured = results("backbones")
    for name, found in measured["backbones"].items():
        test = found["test"]
        cells = (
            f"{len(found['seeds'])} | {test['mean']:.3f} | {test['min']:.3f} to {test['max']:.3f} |"
            f" {found['macro_f1']:.3f} | {found['size_bytes'] / 1e6:.1f} MB"
        )
        assert f"| `{name}` | {cells} |" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS


def test_numbers_on_readme_are_those_of_the_benchmarks():
    transfer = results("training")["variants"]["transfer"]
    seconds, accuracy = transfer["seconds"], transfer["test_accuracy"]
    whisker, stock = (
        f"{seconds[side]['median']:.1f} s, {accuracy[side]['median']:.3f}"
        for side in ("whisker", "stock")
    )
    assert f"| {whisker} | stock Keras: {stock} |" in ON_README
    rows = results("accuracy")["sets"]["cats_and_dogs_filtered"]["rows"]
    means = {row["name"]: f"{row['mean']:.3f}" for row in rows}
    assert f"reaches {means['stock']}, `transfer` as it is {means['fast']}, and with" in ON_README
    assert f"`--recipe=best` {means['best']}\n" in ON_README
    served = results("serving")["summary"]
    whisker, bentoml, litserve = (
        f"{served[name]['32']['per_second']['median']:.0f}"
        for name in ("whisker_xnnpack", "bentoml_batching", "litserve_batching")
    )
    assert f"| {whisker} | BentoML {bentoml}, LitServe {litserve} " in ON_README
    imported = results("client")["summary"]
    whisker, api = (
        f"{costs['import_s']['median']:.3f} s, {costs['memory_mb']['median']:.0f} MB"
        for costs in (imported["whisker"], imported["tensorflow_serving_api"])
    )
    assert f"| {whisker} | `tensorflow-serving-api`: {api} |" in ON_README


def test_shares_that_the_gate_refuses_are_those_of_the_simulation():
    measured = results("gate")
    for rows in zip(*(model["rows"] for model in measured["models"]), strict=True):
        shares = [row["refused"][policy] for row in rows for policy in ("not_worse", "strict")]
        numbers = " | ".join(f"{100 * share:.1f} %" for share in shares)
        assert f"| {rows[0]['n']:,} | {rows[0]['worse_by_points']} | {numbers} |" in BENCHMARKS
    assert f"of {measured['pairs']:,} simulated pairs" in BENCHMARKS


def test_first_requests_are_those_of_the_benchmark():
    first = [results("warmup")[name]["first_ms"]["median"] for name in ("with", "without")]
    assert (
        "took {:,.0f} ms with warm-up records and {:,.0f} ms without".format(*first) in BENCHMARKS
    )


def test_costs_of_the_client_are_those_of_the_benchmark():
    measured = results("client")
    for name, side in (
        ("Whisker's client", "whisker"),
        ("`tensorflow-serving-api`", "tensorflow_serving_api"),
        ("REST", "rest"),
    ):
        of_side = {
            measure: spread["median"] for measure, spread in measured["summary"][side].items()
        }
        cells = f"{of_side['import_s']:.3f} s | {of_side['memory_mb']:.0f} MB"
        cpu = f"{of_side['bytes_cpu_ms']:.2f} ms | {of_side['pixels_cpu_ms']:.2f} ms"
        assert f"| {name} | {cells} | {cpu} |" in BENCHMARKS
    api = measured["targets"]["tensorflow_serving_api"]
    for measure in ("import_s", "memory_mb"):
        assert api[measure]["met"]
        assert f"{api[measure]['times_less']['median']:.0f} times" in BENCHMARKS
    assert measured["commit"][:7] in BENCHMARKS
    assert measured["date"] in BENCHMARKS


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder in which the pages' commands find what they name: an environment, pictures, weights
    in the cache.
    """
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    write_pictures(folder / "my_pictures", per_class=25)
    cache = folder / ".cache" / "whisker"
    cache.mkdir(parents=True)
    backbone = keras.applications.MobileNetV2((160, 160, 3), include_top=False, weights=None)
    # The published file has Keras' first layout, which Keras 3 still reads but writes through this
    # function alone.
    with h5py.File(
        cache / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5", "w"
    ) as weights:
        save_weights_to_hdf5_group(weights, backbone)
    return folder


def environment(folder):
    return {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}


def execute(folder, language, text):
    command = (
        ["bash", "-euo", "pipefail", "-c", text]
        if language == "sh"
        else [sys.executable, "-c", text]
    )
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def outputs(checkout):
    """What the blocks without a marker print, run in their order; one that several pages have runs
    once.
    """
    languages = {
        block.text: block.language
        for block in BLOCKS
        if not block.marker and block.language in LANGUAGES
    }
    return {text: execute(checkout, language, text) for text, language in languages.items()}


def output(outputs, start):
    return outputs[block(start).text]


def test_training_on_own_pictures_publishes_a_version(outputs, checkout):
    assert f"published version 1: {checkout}/models/whisker/1" in output(
        outputs, "--variant=transfer --model_dir"
    )


def test_python_lines_print_an_accuracy(outputs):
    assert re.search(
        r"\n[01]\.\d+ \[[\d.]+, [\d.]+\]\n$", output(outputs, "from trainer.pipeline import run")
    )


def test_folder_is_looked_at_frozen_and_converted(outputs, checkout):
    assert "1 groups" not in output(outputs, "whisker-data scan")
    assert "0 groups of pictures that look the same" in output(outputs, "whisker-data scan")
    assert f"frozen in {Path('my_pictures/ledger.json')}, digest" in output(
        outputs, "whisker-data split"
    )
    assert "50 pictures in my_shards" in output(outputs, "whisker-data convert")
    assert (checkout / "my_shards" / "shards.json").is_file()


def test_asking_the_store_answers_every_picture(outputs):
    answers = output(outputs, "whisker-predict --model_dir")
    assert len(re.findall(r"my_pictures/cats/\d+\.jpg", answers)) == 25


def test_dry_run_prints_a_job(outputs):
    assert "workerPoolSpecs:" in output(outputs, "whisker-submit --dry_run")


def described(section):
    """Names in the first column of a section's tables in docs/formats.md."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = re.search(rf"^## {section}$(.*?)(?:^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    return set(re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\|(.+?)\|", rows, re.MULTILINE))))


@pytest.mark.usefixtures("outputs")
def test_files_and_keys_are_those_that_a_run_writes(checkout):
    (run,) = (checkout / "runs").glob("*-transfer")
    entries = {path.name + "/" * path.is_dir() for path in run.iterdir() if path.name != ".lock"}
    assert described("Run folder") == entries
    assert described("Result") == set(json.loads((run / "result.json").read_text()))
    ledger = json.loads((checkout / "my_pictures" / "ledger.json").read_text())
    assert described("Ledger") == set(ledger)
    manifest = checkout / "models" / "whisker" / "1" / "assets.extra" / "whisker.json"
    assert described("Manifest") == set(json.loads(manifest.read_text()))


@pytest.fixture(scope="module")
def ports(outputs, checkout):  # noqa: ARG001
    """Those of the server that README starts, on the model that it trains."""
    command = block("whisker-serve --port").text.replace(
        "--port=8500 --rest_api_port=8501", "--ports_file=ports.json"
    )
    server = subprocess.Popen(
        ["bash", "-c", "exec " + command], cwd=checkout, env=environment(checkout)
    )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (checkout / "ports.json").exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield json.loads((checkout / "ports.json").read_text())
    finally:
        server.terminate()
        assert server.wait(30) == 0


@pytest.mark.usefixtures("outputs")
def test_store_lines_say_what_is_live_and_that_all_is_well(checkout):
    said = execute(checkout, "sh", block("whisker-store list").text)
    assert re.search(r"^ +1  live  stable  ", said, re.MULTILINE)
    assert "all well" in said


def test_server_and_client_lines_work_together(ports, checkout):
    client = block("from serving.client").text.replace(
        "localhost:8500", f"localhost:{ports['port']}"
    )
    assert re.fullmatch(r"(cats|dogs) [01]\.\d+\n", execute(checkout, "python", client))


def test_configuration_lines_write_files_that_are_read_back(tmp_path):
    for name, label in (("server.key", "PRIVATE KEY"), ("server.crt", "CERTIFICATE")):
        (tmp_path / name).write_text(f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n")
    execute(tmp_path, "python", block("from serving.config").text)
    assert batching.read(tmp_path / "batching.config").max_batch_size.value == 32
    assert monitoring.read(tmp_path / "monitoring.config").prometheus_config.enable
    assert tls.read(tmp_path / "tls.config").server_key == (tmp_path / "server.key").read_text()


def test_line_of_readme_asks_its_server_about_every_picture(ports, checkout):
    line = block("--server=localhost:8500 my_pictures/cats").text
    said = execute(checkout, "sh", line.replace("localhost:8500", f"localhost:{ports['port']}"))
    assert len(re.findall(r"my_pictures/cats/\d+\.jpg", said)) == 25


def test_lines_that_keep_answers_and_draw_them_do_so(ports, checkout):
    lines = block("--out=results.csv").text.replace("localhost:8500", f"localhost:{ports['port']}")
    assert execute(checkout, "sh", lines).count("my_pictures/") == 50
    assert (checkout / "results.csv").read_text().count("my_pictures/") == 50
    assert (checkout / "sheet.png").is_file()


def run_example(checkout, ports, name, *pictures, port="port", **variables):
    command = [sys.executable] if name.endswith(".py") else []
    ended = subprocess.run(
        [*command, ROOT / "examples" / name, f"localhost:{ports[port]}", *pictures],
        cwd=checkout,
        env={**environment(checkout), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", ["ask.py", "ask_async.py"])
def test_example_in_python_answers_every_picture(checkout, ports, name):
    said = run_example(checkout, ports, name, *PICTURES)
    assert re.fullmatch("".join(rf"{path} (cats|dogs) [01]\.\d\d\n" for path in PICTURES), said)


def code_of(notebook):
    """The code of a notebook's cells, which keeps no outputs."""
    cells = json.loads((ROOT / "examples" / notebook).read_text(encoding="utf-8"))["cells"]
    of_code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in of_code if cell["outputs"]] == []
    return "\n".join("".join(cell["source"]) for cell in of_code) + "\n"


def test_cells_of_the_notebook_that_asks_run(checkout, ports):
    program = code_of("ask.ipynb") + "print(len(answers), axes[2, 3].get_title())"
    said = execute(
        checkout, "python", program.replace("localhost:8500", f"localhost:{ports['port']}")
    )
    assert re.fullmatch(r"12 (cats|dogs) [01]\.\d\d\n", said)


def test_what_the_notebook_that_trains_imports_is_there():
    for node in ast.walk(ast.parse(code_of("train.ipynb"))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.long
def test_cells_of_the_notebook_that_trains_run(tmp_path):
    write_pictures(tmp_path / "my_pictures")
    program = code_of("train.ipynb").replace("image_size=64, epochs=15", "image_size=32, epochs=3")
    said = execute(tmp_path, "python", program + "print(result._repr_html_(), figure.axes)")
    answers = re.findall(
        r"^my_pictures/(cats|dogs)/\d+\.jpg: (\w+) [01]\.\d\d$", said, re.MULTILINE
    )
    assert sum(label == answer for label, answer in answers) > 5
    assert re.search(
        r"^<p>test accuracy .*<p>published version 1: .*\[<Axes: >\]$", said, re.MULTILINE
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_example_with_curl_gives_the_label(checkout, ports):
    (answer,) = json.loads(
        run_example(checkout, ports, "ask_rest.sh", PICTURES[0], port="rest_api_port")
    )["predictions"]
    assert answer["label"] in ("cats", "dogs")


@pytest.mark.skipif(
    not shutil.which("grpcurl"),
    reason="grpcurl is not installed; the next test reads what it is given",
)
def test_example_with_grpcurl_gives_the_label(checkout, ports):
    answer = json.loads(run_example(checkout, ports, "ask_grpcurl.sh", PICTURES[0]))
    assert base64.b64decode(answer["outputs"]["label"]["string_val"][0]) in (b"cats", b"dogs")


def test_what_grpcurl_is_given_is_a_method_and_a_request_that_the_server_answers(
    checkout, ports, tmp_path
):
    stand_in = tmp_path / "grpcurl"
    stand_in.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/body\n'
    )
    stand_in.chmod(0o755)
    run_example(
        checkout, ports, "ask_grpcurl.sh", PICTURES[0], PATH=f"{tmp_path}:{os.environ['PATH']}"
    )
    *options, file, body, from_input, address, name = (
        (tmp_path / "arguments").read_text().splitlines()
    )
    assert (options, body, from_input) == (["-plaintext", "-protoset"], "-d", "@")
    # As grpcurl does, and any other language can: nothing but protobuf, gRPC and the descriptor
    # set.
    pool = descriptor_pool.DescriptorPool()
    for one in descriptor_pb2.FileDescriptorSet.FromString(Path(file).read_bytes()).file:
        pool.Add(one)
    service, _, method = name.partition("/")
    found = pool.FindServiceByName(service).FindMethodByName(method)
    request, response = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{name}", request.SerializeToString, response.FromString)
        answer = call(json_format.Parse((tmp_path / "body").read_text(), request()), timeout=30)
    assert answer.outputs["label"].string_val[0] in (b"cats", b"dogs")
