import json
import subprocess
import sys

PROGRAM = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
import serving.client
for module in pkgutil.iter_modules(serving.client.__path__, "serving.client."):
    importlib.import_module(module.name)
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(tops - sys.stdlib_module_names)))
"""


def test_client_imports_grpc_and_protobuf_alone():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    imported = {name for name in json.loads(ended.stdout) if "cython" not in name}
    # typing_extensions comes with grpcio.
    assert {"google", "grpc", "serving"} <= imported <= {"google", "grpc", "serving", "typing_extensions"}
