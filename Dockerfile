# The fabric as a container: no compiler, no root, no writes outside /data.
#
#   docker build -t self-healing-fabric .
#   docker run --read-only -v ./shf.yaml:/etc/shf/shf.yaml:ro -v shf-data:/data -p 9931:9931 self-healing-fabric
#
# shf.yaml has to say `listen: 0.0.0.0:9931` then, with `auth.token_file`: the fabric's default is the container's own
# loopback, which only --network=host makes reachable. A store without a path (the default) lies in /data.
# To heal containers, mount the engine's socket as well and give its group with --group-add.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
# Only for networks with a package index of their own: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-deps --wheel-dir /dist . \
    && python -m venv --without-pip /opt/shf \
    && wheel=$(ls /dist/*.whl) \
    && python -m pip --python /opt/shf/bin/python install "$wheel[docker,kubernetes,postgresql,state]"

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Self-Healing Fabric" \
      org.opencontainers.image.description="Heals what Prometheus alerts on, within guardrails, and proves it" \
      org.opencontainers.image.licenses="Apache-2.0"
# A name for the user, since `shf mode` and `shf approve` note who it was. Without useradd: not every base has it.
RUN echo 'shf:x:10001:10001:Self-Healing Fabric:/data:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'shf:x:10001:' >> /etc/group \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /opt/shf /opt/shf
ENV PATH=/opt/shf/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 SHF_CONFIG=/etc/shf/shf.yaml
USER 10001:10001
# Also where temporary files go when the root file system is read-only and /tmp is no tmpfs: large notifications.
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
