# One image for `countersign gateway`, `countersign worker` and `countersign migrate`.
#
#   docker build --tag countersign .
#   docker run --rm countersign --help
#
# With buildah add `--format docker`: the OCI image format has no HEALTHCHECK.

# Any image with Python 3.11 to 3.14 as `python3`, its venv module and CA certificates. On plain Debian these are the
# packages python3, python3-venv and ca-certificates. Both stages use it: the environment links to its interpreter.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build

ARG UV_VERSION=0.13.8
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"

# Bytecode is compiled here, because at run time the file system may be read-only and is not ours to write.
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON=python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/countersign

WORKDIR /src

# The dependencies alone first: this layer stays as it is until the lock changes.
COPY pyproject.toml uv.lock ./
COPY clients/python/pyproject.toml clients/python/
COPY deploy/deployers/contract/pyproject.toml deploy/deployers/contract/
COPY deploy/deployers/kserve/pyproject.toml deploy/deployers/kserve/
COPY deploy/deployers/kserve/storage/pyproject.toml deploy/deployers/kserve/storage/
COPY deploy/deployers/ray_serve/pyproject.toml deploy/deployers/ray_serve/
COPY deploy/mlflow/pyproject.toml deploy/mlflow/
RUN /opt/uv/bin/uv sync --locked --no-dev --no-install-workspace

# All of the context, which .dockerignore limits. Installed as a wheel, so that the final stage needs no source tree;
# the wheel holds `migrations` too.
COPY . .
RUN /opt/uv/bin/uv sync --locked --no-dev --no-editable


FROM ${BASE}

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Countersign" \
      org.opencontainers.image.description="A control plane in front of MLflow: gateway, worker and migrations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A number, so that Kubernetes can see that it is not root (runAsNonRoot). It is the number of deploy/mlflow-server too,
# so that what MLflow writes to a shared volume can be read here whatever its mode.
RUN groupadd --gid 10001 countersign \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin countersign \
 # A new volume takes its owner from the folder it is mounted on.
 && install --directory --owner 10001 --group 10001 /var/lib/mlflow/artifacts

# Root's, and so not writable by the process.
COPY --from=build /opt/countersign /opt/countersign

# Inside a container the loopback address would be reachable by nobody.
ENV PATH=/opt/countersign/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COUNTERSIGN_HOST=0.0.0.0 \
    COUNTERSIGN_PORT=8080

WORKDIR /
USER 10001:10001
EXPOSE 8080

# Alive, not ready: a gateway whose MLflow is down must not be restarted for it. Not urllib, which would ask a proxy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-I", "-c", "import http.client, os; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ['COUNTERSIGN_PORT']), timeout=3); gateway.request('GET', '/livez'); raise SystemExit(gateway.getresponse().status != 200)"]

ENTRYPOINT ["countersign"]
CMD ["gateway"]
