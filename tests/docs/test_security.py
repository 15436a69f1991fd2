"""SECURITY.md: the bounds that it names are those of the program."""

import re
from pathlib import Path

from serving.server.flags import Flags
from serving.server.handlers import PICTURES
from whisker_ml.formats import MAX_PIXELS

ROOT = Path(__file__).parents[2]


def test_bounds_on_the_security_page_are_the_defaults():
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = re.findall(r"^\| .* \| (.*?) \| `--(max_\w+|request_\w+)` \|$", page, re.MULTILINE)
    found = {flag: bound for bound, flag in rows}
    assert Flags().max_request_rows == 0
    assert found == {
        "max_request_rows": str(PICTURES),
        "max_request_bytes": f"{Flags().max_request_bytes >> 20} MiB",
        "max_pixels": "10⁹, and 10⁸ of one picture (`--max_pixels` of the training)",
        "max_json_bytes": f"{Flags().max_json_bytes >> 20} MiB (10 MiB once it is inflated)",
        "request_arrival_timeout_in_ms": f"{Flags().request_arrival_timeout_in_ms // 1000} s",
        "max_connections_per_peer": str(Flags().max_connections_per_peer),
    }
    assert (Flags().max_pixels, MAX_PIXELS) == (10**9, 10**8)
