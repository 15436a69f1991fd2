# The tests of trainer and server inside the trainer's image, on the code, packages and Python that are pushed:
#   make test-image
ARG TRAINER
FROM ${TRAINER}

USER 0
COPY requirements/dev.txt /build/
RUN pip install --no-cache-dir --require-hashes --requirement /build/dev.txt

# Beside the code that the image already holds.
COPY pyproject.toml /app/
COPY infra /app/infra
COPY tests /app/tests
WORKDIR /app
USER 10001
ENTRYPOINT ["python", "-m", "pytest", "-m", "not long", "--numprocesses=auto", "--dist=loadfile"]
CMD ["tests/whisker_ml", "tests/trainer", "tests/serving", "tests/integration"]
