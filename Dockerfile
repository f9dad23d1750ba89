# An image for applications to build from; without one it serves the demo. deploy/README.md lists what is in it.

# Both stages need the same interpreter at the same path. Pin by digest what you build for production.
ARG PYTHON_IMAGE=python:3.13-slim
# What the image is made of: a base without a shell will do, nothing is run in it.
ARG RUNTIME_IMAGE=${PYTHON_IMAGE}

FROM ${PYTHON_IMAGE} AS build
# gcc for the C module; it stays in this stage. Any version will do, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md ./
COPY .ci/build_backend.py ./.ci/
COPY asgiws ./asgiws
# A path of its own: its `bin` has the commands, and applications add their packages to it.
RUN python -m venv /opt/asgiws \
 && /opt/asgiws/bin/pip wheel --no-cache-dir --wheel-dir /wheels ".[uvloop,metrics,fast,redis]" \
 && /opt/asgiws/bin/pip install --no-cache-dir --no-index --find-links /wheels "asgiws[uvloop,metrics,fast,redis]"
WORKDIR /
# The C module is optional where there is no compiler. Here there is one.
RUN /opt/asgiws/bin/python -c "from asgiws.protocol.websocket.masking import UNMASK_IN_C; assert UNMASK_IN_C"

FROM ${RUNTIME_IMAGE}
# Logs leave as they are written; nothing is written beside the code, which may be on a read-only file system.
ENV PATH=/opt/asgiws/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ASGIWS_HOST=0.0.0.0 \
    ASGIWS_PORT=8000 \
    ASGIWS_ADMIN=127.0.0.1:9000
COPY --from=build /opt/asgiws /opt/asgiws
WORKDIR /app
# Without a name, because a base need not have /etc/passwd; a number is what Kubernetes' runAsNonRoot can check.
USER 65532:65532
EXPOSE 8000
# asgiws is process 1: it gets SIGTERM itself, and drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["asgiws"]
CMD ["asgiws.demo:app"]
# Ready, and not draining; also when an orchestrator has its own probes and never looks at this one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["asgiws", "health"]
