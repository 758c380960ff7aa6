# The daemon as an image; docs/container.md tells how it is built, run and updated.
ARG BASE=python:3.13-slim


FROM ${BASE} AS build

# A CA file inside the base image, for networks that look into TLS; pip reads the variable itself.
ARG PIP_CERT
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
WORKDIR /build

# uv comes from the lock as well, so that nothing is installed without a hash.
COPY requirements.lock ./
RUN awk '/^[^ ]/ { is_uv = /^uv==/ } is_uv' requirements.lock > uv.lock \
    && python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement uv.lock

COPY requirements-runtime.lock ./
RUN if [ -n "${PIP_CERT}" ]; then export SSL_CERT_FILE="${PIP_CERT}"; fi \
    && /uv/bin/uv venv --python python3 /opt/exai \
    && /uv/bin/uv pip sync --no-cache --compile-bytecode --no-build --require-hashes \
        --python /opt/exai requirements-runtime.lock

# Offline: what builds the wheel is uv itself, and not a package of an unknown hash.
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /uv/bin/uv pip install --no-cache --compile-bytecode --offline --no-deps \
        --python /opt/exai /build


FROM ${BASE}

LABEL org.opencontainers.image.title="EXAI" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /var/lib/exai \
        --shell /usr/sbin/nologin exai \
    && install --directory --owner exai --group exai --mode 700 /var/lib/exai

COPY --from=build /opt/exai /opt/exai
COPY container /app

# With an empty token the daemon does not start: one is chosen by whoever runs it, not made and kept
# inside. The small local model is not in the image.
# hadolint ignore=DL3064
ENV PATH=/opt/exai/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CONFIG_HOME=/etc \
    EXAI_STATE_DIR=/var/lib/exai \
    EXAI_WS_HOST=0.0.0.0 \
    EXAI_WS_TOKEN= \
    EXAI_LOCAL_ENABLED=false

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/exai
VOLUME /var/lib/exai
EXPOSE 8079 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "/app/health_check.py"]
ENTRYPOINT ["exai", "serve"]
