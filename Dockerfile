# An image for ASGI applications; without one it serves the demo. See deploy/README.md.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
# gcc for the C module; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md ./
COPY asgiws ./asgiws
RUN python -m venv /opt/asgiws && /opt/asgiws/bin/pip install --no-cache-dir ".[uvloop]"

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/asgiws/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ASGIWS_HOST=0.0.0.0 \
    ASGIWS_PORT=8000
COPY --from=build /opt/asgiws /opt/asgiws
WORKDIR /app
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["asgiws"]
CMD ["asgiws.demo:app"]
