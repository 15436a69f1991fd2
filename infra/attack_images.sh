#!/usr/bin/env bash
# Tries both images as a strict cluster, a hurried one and a careless user would; the first thing that is not as it
# should be ends it with one line.
#   infra/attack_images.sh TRAINER_IMAGE SERVING_IMAGE
set -euo pipefail
trainer=$1 serving=$2
name=whisker-attack-$$
home=/home/whisker
# What Kubernetes' "restricted" asks for, and more: no network, nothing to write to but the home folder and /tmp.
strict=(--read-only --tmpfs=/tmp --cap-drop=ALL --security-opt=no-new-privileges --network=none)
small=(--data=sample --image_size=32 --gate=off --run_dir=run --model_dir=models)

cleanup() {
    docker rm --force "$name"
    docker volume rm "$name" "$name-root"
} >/dev/null 2>&1
trap 'cleanup || true' EXIT

fail() {
    docker logs --tail=30 "$name" >&2 || true
    echo "attack: $*" >&2
    exit 1
}

until_true() { # seconds, a command
    for _ in $(seq "$1"); do
        "${@:2}" && return
        sleep 1
    done
    return 1
}

health_is() { [ "$(docker inspect --format='{{.State.Health.Status}}' "$name")" = "$1" ]; }
log_has() { docker logs "$name" 2>&1 | grep --quiet "$1"; }

docker volume create "$name" >/dev/null
docker volume create "$name-root" >/dev/null

for image in "$trainer" "$serving"; do
    [ "$(docker run --rm --entrypoint=id "$image" --user)" = 10001 ] || fail "$image does not run as user 10001"
done
! docker run --rm --entrypoint=git "$trainer" --version >/dev/null 2>&1 || fail "the trainer's image holds git"

# Another user's folder: one line that says where and what, and the code of wrong use.
ended=0
said=$(docker run --rm "${strict[@]}" --volume="$name-root:/data" "$trainer" "${small[@]}" --run_dir=/data/run 2>&1) \
    || ended=$?
[ "$ended" = 2 ] && grep --quiet /data <<<"$said" && ! grep --quiet Traceback <<<"$said" \
    || fail "a folder that only root may write ended with $ended: $said"

# SIGTERM in training: a checkpoint, 143, and the same command goes on.
docker run --detach --name="$name" "${strict[@]}" --volume="$name:$home" "$trainer" "${small[@]}" --epochs=200 >/dev/null
until_true 120 log_has "epoch *2/" || fail "no second epoch after two minutes"
docker stop --time=30 "$name" >/dev/null
ended=$(docker inspect --format='{{.State.ExitCode}}' "$name")
[ "$ended" = 143 ] || fail "training ended with $ended after SIGTERM instead of 143"
docker rm "$name" >/dev/null
docker run --detach --name="$name" "${strict[@]}" --volume="$name:$home" "$trainer" "${small[@]}" --epochs=200 >/dev/null
until_true 120 log_has "resum" || fail "the second run did not go on from the checkpoint"
docker rm --force "$name" >/dev/null

# Without privileges, network and git from pictures to a published version.
docker run --rm "${strict[@]}" --volume="$name:$home" "$trainer" "${small[@]}" --run_dir=run2 --epochs=1 >/dev/null \
    || fail "a strict container does not train"

# Served as strictly, with health that says whether there is something to ask.
health=(--health-interval=1s --health-start-period=1s --health-retries=2)
docker run --detach --name="$name" "${strict[@]}" "${health[@]}" --volume="$name:$home:ro" "$serving" \
    "--model_config_file=$home/models/models.config" >/dev/null
until_true 60 health_is healthy || fail "a strict container does not serve"
docker rm --force "$name" >/dev/null
docker run --detach --name="$name" "${strict[@]}" "${health[@]}" --volume="$name-root:/models:ro" "$serving" \
    --model_name=whisker --model_base_path=/models/whisker >/dev/null
until_true 60 health_is unhealthy || fail "a server without a model is not unhealthy"
