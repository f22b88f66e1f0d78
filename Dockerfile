# `featherseg serve` on a CPU: docs/start/container.md. Runs as nobody in particular, and writes nothing.
FROM python:3.11-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE constraints.txt ./
COPY src src
RUN python -m venv /opt/featherseg \
    && /opt/featherseg/bin/pip install --no-cache-dir -c constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[serve,torch]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/featherseg /opt/featherseg
ENV PATH=/opt/featherseg/bin:$PATH PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
WORKDIR /runs
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; \
r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["featherseg", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["efficientvit-seg-b0-shapes"]
