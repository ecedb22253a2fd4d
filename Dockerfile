# The fabric as a container: no compiler, no pip, no root, no writes outside /data.
#
#   docker build -t self-healing-fabric .
#   docker run --read-only -v "$PWD/shf.yaml:/etc/shf/shf.yaml:ro" -v shf-data:/data -p 127.0.0.1:9931:9931 self-healing-fabric
#
# How to configure it, what is pinned and what is the same in two builds: docs/deployment.md.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Only for networks with a package index of their own: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
# Only wheels, and only those whose hashes are in the lock: nothing is compiled and nothing is a surprise.
COPY locks locks
RUN python -m venv --without-pip /opt/shf \
    && python -m pip --python /opt/shf/bin/python install --no-compile --require-hashes --only-binary :all: -r locks/image.txt \
    && python -m pip install --require-hashes --only-binary :all: -r locks/build.txt
COPY . .
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && python -m pip --python /opt/shf/bin/python install --no-compile --no-deps --no-index /dist/*.whl \
    && rm /opt/shf/lib/python3*/site-packages/self_healing_fabric-*.dist-info/direct_url.json

FROM ${PYTHON} AS root
ARG SOURCE_DATE_EPOCH=1580601600
WORKDIR /src
COPY deploy/image/prepare_root.py .
COPY --from=build /opt/shf /opt/shf
RUN SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 python prepare_root.py /image

FROM scratch
LABEL org.opencontainers.image.title="Self-Healing Fabric" \
      org.opencontainers.image.description="Heals what Prometheus alerts on, within guardrails, and proves it" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=root /image/ /
ENV PATH=/opt/shf/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SHF_CONFIG=/etc/shf/shf.yaml
USER 10001:10001
# Also where temporary files go when the root file system is read-only and /tmp is no tmpfs: large answers.
WORKDIR /data
VOLUME /data
EXPOSE 9931
# Alive, not ready: a fabric that waits for its store or drains must not be killed for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import http.client, os, sys; \
port = os.environ.get('SHF_LISTEN', ':9931').rpartition(':')[2]; \
fabric = http.client.HTTPConnection('127.0.0.1', int(port), timeout=3); \
fabric.request('GET', '/healthz'); \
sys.exit(fabric.getresponse().status != 200)"]
ENTRYPOINT ["shf"]
CMD ["serve"]
