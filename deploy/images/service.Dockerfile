# The forecast service, and Feast's feature server. It holds no Dagster but dagster-pipes, which the trainer's code wants.
#   docker build -f deploy/images/service.Dockerfile -t forecast-service:0.1.0 .
ARG PYTHON=3.11.13-slim-bookworm

FROM docker.io/library/python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock /build/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/requirements.lock --extra-index-url "${TORCH_INDEX}" \
      torch numpy pandas pyarrow fastapi "uvicorn[standard]" prometheus-client "feast[postgres,redis]" \
      "psycopg[binary,pool]" adbc-driver-postgresql SQLAlchemy PyYAML typeguard dagster-pipes

FROM docker.io/library/python:${PYTHON}
COPY --from=build /opt/venv /opt/venv
COPY feature_repo /app/feature_repo
COPY serving /app/serving
COPY trainer /app/trainer
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    HOME=/tmp
WORKDIR /tmp
USER 1001:0
EXPOSE 8080
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/v2/health/live', timeout=3)"]
CMD ["python", "-m", "serving"]
