# The trainer in a container, for a cloud's GPU machine or any docker host. Build from the top of the checkout:
#   docker build --platform=linux/amd64 --file infra/docker/trainer.Dockerfile --tag whisker/trainer .
FROM python:3.12-slim AS packages

# 1: with the CUDA libraries as wheels; 0: for CPU, a fraction of the size.
ARG GPU=1

ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /build

# The locks before the sources: a change of code does not install TensorFlow again. What is removed are TensorFlow's
# headers for C++ and a library of clang: half a gigabyte that no Python program opens.
COPY requirements/run.txt requirements/gpu.txt ./
RUN if [ "$GPU" = 1 ]; then lock=gpu.txt; else lock=run.txt; fi \
    && pip install --require-hashes --requirement "$lock" \
    && rm -rf /opt/venv/lib/python3*/site-packages/tensorflow/include /opt/venv/lib/python3*/site-packages/clang

FROM python:3.12-slim

COPY --from=packages /opt/venv /opt/venv

# TensorFlow does not find all of the CUDA wheels' libraries by itself: their folders go into the loader's cache.
RUN find /opt/venv -type d -path '*/nvidia/*/lib' > /etc/ld.so.conf.d/nvidia-wheels.conf && ldconfig

# Folders of the GPU driver, which Google's device plugin mounts when the container starts, too late for the cache
# (github.com/GoogleCloudPlatform/container-engine-accelerators, cmd/nvidia_gpu); elsewhere NVIDIA's container toolkit
# reads the two variables below.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home --uid 10001 whisker

COPY whisker_ml /app/whisker_ml
COPY serving /app/serving
COPY trainer /app/trainer
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1

# By number, so that Kubernetes can see that it is not root.
USER 10001
# The user's own folder: a run without --run_dir writes below the working directory.
WORKDIR /home/whisker
# Without a GPU it trains on the CPU; jobs are sent with --require_gpu, which ends in one line where TensorFlow sees none.
ENTRYPOINT ["python", "-m", "trainer.task"]
