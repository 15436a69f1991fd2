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
# Of Google's packages protobuf alone: identity tokens are an extra of their own.
new = set(sys.modules) - before
tops |= {name for name in new if name.startswith(("google.auth", "google.oauth2"))}
print(json.dumps(sorted(tops - sys.stdlib_module_names)))
"""


def test_client_imports_grpc_and_protobuf_alone():
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    )
    imported = {name for name in json.loads(ended.stdout) if "cython" not in name}
    # typing_extensions comes with grpcio.
    assert (
        {"google", "grpc", "serving", "whisker_ml"}
        <= imported
        <= {"google", "grpc", "grpc_reflection", "serving", "whisker_ml", "typing_extensions"}
    )


def test_identity_token_without_its_extra_says_which_it_is():
    program = """
import sys
sys.modules["google.auth"] = None  # As where it is not installed.
from serving.client.channel import IdentityToken
from whisker_ml.errors import MissingExtra
try:
    IdentityToken("https://models.example")
except MissingExtra as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert (
        "the package google-auth is not installed: this command needs the extra 'identity'"
        in ended.stdout
    )
