#!/usr/bin/env bash
# Looks for known weaknesses of images before they are pushed, and fails where one is CRITICAL and not waived:
#   infra/scan.sh IMAGE…
# (cloud.google.com/artifact-analysis/docs/ods-cloudbuild; local images are read from this machine's docker.)
set -euo pipefail
waivers=$(dirname "$0")/scan_waivers.txt
today=$(date -u +%F)

while read -r id until reason || [[ -n $id ]]; do
    [[ -z $id || $id = \#* ]] && continue
    if ! [[ $until =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ && -n $reason ]]; then
        echo "scan: $waivers: $id: expected a last day, such as 2027-01-31, and a reason" >&2
        exit 2
    fi
done <"$waivers"

for image in "$@"; do
    scan=$(gcloud artifacts docker images scan "$image" --format='value(response.scan)')
    # Kept first: a failed command at the head of a pipe would look like a clean image.
    found=$(gcloud artifacts docker images list-vulnerabilities "$scan" \
        --format='value(vulnerability.effectiveSeverity,noteName)')
    refused=
    # A note is called projects/goog-vulnz/notes/CVE-….
    while read -r severity note; do
        [ "$severity" = CRITICAL ] || continue
        id=${note##*/}
        until=$(awk -v id="$id" '$1 == id { print $2 }' "$waivers")
        [[ -z $until || $until < $today ]] || continue
        refused+="${refused:+, }${id:-no name}${until:+ (its waiver ended on $until)}"
    done <<<"$found"
    if [ -n "$refused" ]; then
        echo "scan: $image has CRITICAL vulnerabilities: $refused; gcloud artifacts docker images list-vulnerabilities $scan" >&2
        exit 1
    fi
done
