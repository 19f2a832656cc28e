# The ingress: HTTP in, SSE out.  docker build -f deploy/ingress.Dockerfile -t relay-ingress .
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
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 RELAY_HOST=0.0.0.0
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["relay", "health", "ingress"]
CMD ["relay", "serve"]
