# The trainer, on CPUs by default:
#   docker build -f deploy/images/trainer.Dockerfile -t forecast-trainer:cpu .
# With CUDA (PyPI's torch brings its libraries; the node brings the driver, which nvidia-ml-py asks for the utilization):
#   docker build -f deploy/images/trainer.Dockerfile -t forecast-trainer:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
ARG PYTHON=3.11.13-slim-bookworm

FROM docker.io/library/python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock /build/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/requirements.lock --extra-index-url "${TORCH_INDEX}" \
      torch numpy pyarrow matplotlib dagster-pipes nvidia-ml-py

FROM docker.io/library/python:${PYTHON}
COPY --from=build /opt/venv /opt/venv
COPY trainer /app/trainer
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HOME=/tmp
WORKDIR /app
# Any other user of group 0 will do as well; nothing is written but to /tmp and the volumes.
USER 1001:0
# torchrun is what a TrainJob runs; alone, the image says what it can do.
CMD ["python", "-m", "trainer", "--help"]
