#!/usr/bin/env bash
# Looks for known weaknesses of images before they are pushed, and fails where one is CRITICAL:
#   infra/scan.sh IMAGE…
# (cloud.google.com/artifact-analysis/docs/ods-cloudbuild; local images are read from this machine's docker.)
set -euo pipefail
for image in "$@"; do
    scan=$(gcloud artifacts docker images scan "$image" --format='value(response.scan)')
    # Kept first: a failed command at the head of a pipe would look like a clean image.
    severities=$(gcloud artifacts docker images list-vulnerabilities "$scan" \
        --format='value(vulnerability.effectiveSeverity)')
    if grep --quiet --line-regexp CRITICAL <<<"$severities"; then
        echo "scan: $image has CRITICAL vulnerabilities: gcloud artifacts docker images list-vulnerabilities $scan" >&2
        exit 1
    fi
done
