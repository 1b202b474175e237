# servekit's own image: exports models, renders the configuration. It is not the model server.
#   docker build -t servekit .
# Another Python, a mirror, or a digest: --build-arg PYTHON_IMAGE=registry.example/python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}

WORKDIR /srv/servekit
ENV PYTHONPATH=/srv/servekit \
    HOME=/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Packages first: an edit of the code does not install them again.
COPY requirements/run.txt requirements/
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/run.txt

COPY servekit servekit
# The root file system is read-only when it runs: compiled now or never.
RUN python -m compileall -q servekit
# `docker compose exec controller servekit canary status`, as the owner of what is mounted.
RUN printf '#!/bin/sh\nexec python -m servekit.container "$@"\n' > /usr/local/bin/servekit \
    && chmod 755 /usr/local/bin/servekit
# Compose mounts the clone's own config/, export/ and models/ over these.
COPY config config
COPY export export
COPY models models

USER 10001:10001
ENTRYPOINT ["python", "-m", "servekit.container"]
CMD ["--help"]
