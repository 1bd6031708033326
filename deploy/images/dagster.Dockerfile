# The code location: Dagster's server for it, and the runs that the K8sRunLauncher starts from the same image.
#   docker build -f deploy/images/dagster.Dockerfile -t forecast-dagster:0.1.0 .
ARG PYTHON=3.11.13-slim-bookworm

FROM docker.io/library/python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /build/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/requirements.lock --extra-index-url "${TORCH_INDEX}" \
      "/build[cluster,redis,ray]"

FROM docker.io/library/python:${PYTHON}
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HOME=/tmp
WORKDIR /tmp
USER 1001:0
EXPOSE 3030
HEALTHCHECK --start-period=60s CMD ["dagster", "api", "grpc-health-check", "-p", "3030"]
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "3030", "-m", "forecast_assets.definitions"]
