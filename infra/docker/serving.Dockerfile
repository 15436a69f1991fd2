# TensorFlow Serving on a model store. Build from the top of the checkout:
#   docker build --platform=linux/amd64 --file infra/docker/serving.Dockerfile --tag whisker/serving .
# models.config names absolute paths, so a store in a folder is mounted where it lies on the host:
#   docker run --publish 8500:8500 --volume "$PWD/models:$PWD/models:ro" whisker/serving \
#     --model_config_file="$PWD/models/models.config"
# and a store in a bucket is given as --model_config_file=gs://BUCKET/models/models.config.
FROM tensorflow/serving:2.20.0

RUN useradd --uid 10001 --no-create-home whisker
USER 10001

# gRPC, REST.
EXPOSE 8500 8501

# The server opens its ports only once every model of models.config is loaded, so a connection means ready.
# Loading from a bucket may take minutes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8501"]

# The server handles no SIGTERM, and the kernel keeps a signal without a handler from process 1 (pid_namespaces(7)):
# without this line every stop would wait for the grace period to run out. Nothing is lost: it never drains requests.
STOPSIGNAL SIGKILL

# The server itself is process 1, not the base image's shell around it. It sets labels before it loads models, and
# without the flag for that it does not start on a models.config that gives labels.
ENTRYPOINT ["tensorflow_model_server", "--port=8500", "--rest_api_port=8501", \
    "--allow_version_labels_for_unavailable_models=true", "--enable_grpc_healthcheck_service=true"]
CMD ["--model_config_file=/models/models.config"]
