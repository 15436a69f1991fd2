import json

from benchmarks import bench_gate
from benchmarks.measurement import RESULTS


def test_results_are_what_the_gate_does_now():
    measured = json.loads((RESULTS / "gate.json").read_text())
    small = [row for row in measured["models"][0]["rows"] if row["n"] == bench_gate.PICTURES[0]]
    simulated = bench_gate.simulate(measured["models"][0]["differ"])
    assert [next(simulated) for _ in small] == small
