# The console: usage API and dashboard.  docker build -f deploy/console.Dockerfile -t relay-console .
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md ./
COPY relay relay
COPY workers workers
RUN /venv/bin/pip install --no-cache-dir .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home relay && install -d -o 10001 /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 RELAY_DATA_DIR=/data RELAY_HOST=0.0.0.0
USER 10001
EXPOSE 8081
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["relay", "health", "console"]
CMD ["relay", "console"]
