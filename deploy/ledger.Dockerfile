# The ledger: takes usage records into the database and prices them.  docker build -f deploy/ledger.Dockerfile -t relay-ledger .
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
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 RELAY_DATA_DIR=/data
USER 10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["relay", "health", "ledger"]
CMD ["relay", "ledger"]
