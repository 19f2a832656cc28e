# A worker: takes jobs from the queue and calls providers.  docker build -f deploy/worker.Dockerfile -t relay-worker .
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md ./
COPY relay relay
COPY workers workers
RUN /venv/bin/pip install --no-cache-dir '.[otel]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home relay
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 RELAY_HOST=0.0.0.0 RELAY_METRICS_PORT=9464
USER 10001
EXPOSE 9464
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["relay", "health", "worker"]
CMD ["relay", "work"]
