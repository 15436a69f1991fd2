#!/usr/bin/env bash
# Runs both images for a moment: one epoch on the drawn sample, the published version served, one class of it asked.
# One epoch makes a model that the gate would refuse: here it only has to be one.
#   infra/smoke.sh TRAINER_IMAGE SERVING_IMAGE
set -euo pipefail
trainer=$1 serving=$2
# The container and its volume; a volume that is new takes content and owner of the folder that it is mounted on.
name=whisker-smoke-$$
home=/home/whisker

cleanup() {
    docker rm --force "$name" || true
    docker volume rm "$name" || true
} >/dev/null 2>&1
trap cleanup EXIT

docker volume create "$name" >/dev/null
docker run --rm --volume "$name:$home" "$trainer" \
    --data=sample --image_size=32 --epochs=1 --gate=off --run_dir=run --model_dir=models

docker run --detach --name "$name" --volume "$name:$home:ro" "$serving" \
    "--model_config_file=$home/models/models.config" >/dev/null
for attempt in $(seq 60); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$name")
    [ "$health" = healthy ] && break
    if [ "$attempt" = 60 ]; then
        docker logs "$name"
        echo "smoke: $serving is $health two minutes after its start; its log is above" >&2
        exit 1
    fi
    sleep 2
done

# In the server's own network, where it is localhost; the trainer's image holds the client.
docker run --rm --network "container:$name" --volume "$name:$home:ro" --entrypoint python "$trainer" \
    -m serving.predict --label=stable .cache/whisker/sample-2/test/cats
