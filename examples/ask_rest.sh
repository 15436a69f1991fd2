#!/bin/sh
# Asks over REST, with curl alone: examples/ask_rest.sh localhost:8501 a.jpg [model]
# Bytes go as base64 in {"b64": …}.
set -eu
picture=$(base64 < "$2" | tr -d '\n')
printf '{"instances": [{"b64": "%s"}]}' "$picture" |
  curl --silent --show-error --fail-with-body --data @- "http://$1/v1/models/${3:-whisker}/labels/stable:predict"
