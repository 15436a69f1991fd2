#!/usr/bin/env bash
# Builds both images, tests them, runs them, and tries them as a careless cluster would (attack_images.sh):
#   make rehearse-images [GPU=1]
# Needs Linux and a package index. Where docker does not run, root and apt: an engine is unpacked from Debian's packages
# and ended afterwards. Where a base image cannot be pulled, a stand-in of the same name is made: Debian with this
# machine's Python (make's PYTHON), and our own server for TensorFlow Serving.
#   infra/rehearse_images.sh PYTHON GPU
set -euo pipefail
python=$1 gpu=$2
debian=trixie
# The programs that python:3.12-slim brings libraries for.
libraries=ca-certificates,netbase,tzdata,libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8t64
libraries+=,libsqlite3-0,libssl3t64,libuuid1,zlib1g
work=$(mktemp --directory /tmp/whisker-rehearsal-XXXXXX)
begun=$SECONDS
notes=()
trainer=whisker/trainer:rehearsal
serving=whisker/serving:rehearsal
made=("$trainer" "$serving" whisker/tests)

say() { echo "rehearsal, ${SECONDS} s: $*" >&2; }

note() {
    notes+=("| $1 | $2 |")
    say "$1: $2"
}

cleanup() {
    docker rmi --force "${made[@]}" || true
    if [ -f "$work/engine.pid" ]; then
        kill "$(cat "$work/engine.pid")" || true
        wait || true
    fi
    grep -o "$work[^ ]*" /proc/mounts | sort --reverse | xargs --no-run-if-empty umount || true
    rm --recursive --force "$work"
} >/dev/null 2>&1
trap cleanup EXIT

unpack() { # names of Debian packages, into $work/programs
    mkdir --parents "$work/packages" "$work/programs"
    (cd "$work/packages" && apt-get download --quiet=2 "$@")
    for package in "$work"/packages/*.deb; do dpkg --extract "$package" "$work/programs"; done
    rm --recursive "$work/packages"
    PATH=$work/programs/usr/bin:$work/programs/usr/sbin:$PATH
}

start_engine() {
    say "no docker engine runs here: one of Debian's packages is started below $work"
    [ "$(id --user)" = 0 ] || { echo "rehearse-images: start docker, or run this as root" >&2; exit 2; }
    apt-get update --quiet=2
    unpack docker.io containerd runc
    dockerd --data-root="$work/root" --exec-root="$work/exec" --pidfile="$work/engine.pid" --host="unix://$work/socket" \
        --iptables=false --ip6tables=false --bridge=none >"$work/engine.log" 2>&1 &
    export DOCKER_HOST=unix://$work/socket
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        sleep 1
    done
    tail --lines=20 "$work/engine.log" >&2
    exit 1
}

stand_in_for_python() { # the image's name
    say "$1 cannot be pulled: a stand-in is made of Debian $debian and $("$python" --version)"
    made+=("$1")
    unpack mmdebstrap
    mmdebstrap --variant=minbase --include="$libraries" "$debian" "$work/base"
    local home
    home=$("$python" -c 'import sys; print(sys.base_prefix)')
    tar --create --directory="$home" --exclude=__pycache__ --exclude=test --exclude='*.a' bin include lib \
        | tar --extract --directory="$work/base/usr/local"
    ln --symbolic --force "$(basename "$(readlink --canonicalize "$python")")" "$work/base/usr/local/bin/python"
    ldconfig -r "$work/base"
    # What this machine trusts: a package index may stand behind a proxy with a certificate of its own.
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
    tar --create --directory="$work/base" . | docker import \
        --change="ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" \
        ${PIP_INDEX_URL:+--change="ENV PIP_INDEX_URL=$PIP_INDEX_URL"} --change='CMD ["python3"]' - "$1" >/dev/null
    rm --recursive --force "$work/base"
}

stand_in_for_serving() { # the image's name; the trainer's image holds our server
    say "$1 cannot be pulled: a stand-in runs our own server under the name tensorflow_model_server"
    made+=("$1")
    docker build --quiet --network=host --tag "$1" - >/dev/null <<-DOCKERFILE
		FROM $trainer
		USER 0
		RUN userdel whisker && printf '#!/bin/sh\nexec python -m serving.server "\$@"\n' > /usr/bin/tensorflow_model_server \
		    && chmod 755 /usr/bin/tensorflow_model_server
		ENTRYPOINT ["tensorflow_model_server"]
	DOCKERFILE
}

base_of() { sed --quiet 's/^FROM \([^ $]*\).*/\1/p' "infra/docker/$1.Dockerfile" | head --lines=1; }

there() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1; }

size() { docker image inspect --format='{{.Size}}' "$1"; } # in bytes

timed() { # a name, a command
    local from=$SECONDS
    "${@:2}"
    note "$1" "passed in $((SECONDS - from)) s"
}

export DOCKER_BUILDKIT=1
docker info >/dev/null 2>&1 || start_engine
make=(make --no-print-directory "GPU=$gpu" IMAGE_TAG=rehearsal "DOCKER_FLAGS=--network=host")

there "$(base_of trainer)" || stand_in_for_python "$(base_of trainer)"
timed "\`make image-trainer\`" "${make[@]}" image-trainer
there "$(base_of serving)" || stand_in_for_serving "$(base_of serving)"
timed "\`make images\`" "${make[@]}" images
base=$(size "$(base_of trainer)")
note "the trainer's image" "$((($(size "$trainer") - base) / 1000000)) MB on a base of $((base / 1000000)) MB"
timed "\`make test-image\`" "${make[@]}" test-image
timed "\`make smoke\`" "${make[@]}" smoke
timed "\`infra/attack_images.sh\`" infra/attack_images.sh "$trainer" "$serving"

echo "Rehearsed with GPU=$gpu in $((SECONDS - begun)) s, docker $(docker version --format '{{.Server.Version}}'):"
printf '%s\n' "| what | result |" "|---|---|" "${notes[@]}"
