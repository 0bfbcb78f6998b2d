# The container image: `docker build -t headway .` (CPU), `docker build --build-arg VARIANT=cuda -t headway:cuda .` (NVIDIA GPUs).
# Needs BuildKit. docs/image.md explains the choices; tests/image/ builds this file and runs what comes out.
ARG BASE_IMAGE=debian:bookworm-slim

# -- what every stage and the final image share ------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
ARG VARIANT=cpu
ARG SOURCE_DATE_EPOCH=1735689600
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# procps: `docker exec ... ps` at night. The CUDA variant keeps a C compiler and Python's headers, because Triton compiles a
# launcher for each kernel in C when the kernel is first used; the CPU variant has none.
RUN --mount=type=bind,source=container/image,target=/mnt \
    case "$VARIANT" in cpu) extra= ;; cuda) extra="gcc libc6-dev libpython3-dev" ;; *) echo "VARIANT is cpu or cuda" >&2; exit 2 ;; esac; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends ca-certificates python3 procps $extra >/dev/null; \
    mkdir -p /usr/share/headway; \
    . /mnt/tidy.sh

# -- Python packages, at the versions that the tests ran with ------------------------------------------------------------
FROM base AS packages
RUN apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
    python3 -m venv /opt/headway
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG VARIANT
# Where torch comes from when wheels/ has none; empty: the package index, whose torch is the CUDA build.
ARG TORCH_INDEX_URL=auto
RUN --mount=type=bind,target=/src \
    bash /src/container/image/packages.sh

# -- our own wheel, with the CPU kernels compiled -------------------------------------------------------------------------
FROM packages AS wheel
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ python3-dev >/dev/null
RUN --mount=type=bind,target=/src \
    mkdir /build; cp -a /src/. /build/; \
    PIP_CONSTRAINT=/build/container/image/lock.txt /opt/headway/bin/pip wheel -q --no-deps --wheel-dir /dist /build

# -- what is in it: bill of materials and licences ------------------------------------------------------------------------
FROM wheel AS inventory
ARG SOURCE_DATE_EPOCH
RUN /opt/headway/bin/pip install -q --no-deps /dist/*.whl; \
    python3 -m venv /opt/tools; /opt/tools/bin/pip install -q -r /build/container/image/tools.txt
COPY --from=base /var/lib/dpkg/status /inventory/dpkg-status
RUN /opt/tools/bin/python /build/container/image/inventory.py \
    --packages /opt/headway/lib/python3.*/site-packages --dpkg-status /inventory/dpkg-status --out /inventory

# -- the image ------------------------------------------------------------------------------------------------------------
FROM base AS final
ARG VARIANT
ARG SOURCE_DATE_EPOCH
# cp in a RUN, not COPY: the folders above keep a fixed time, so that the same inputs give the same layers.
RUN --mount=type=bind,from=packages,source=/opt/headway,target=/mnt/packages \
    --mount=type=bind,source=container/image,target=/mnt/image \
    cp -a /mnt/packages /opt/headway; . /mnt/image/tidy.sh
RUN --mount=type=bind,from=wheel,source=/dist,target=/mnt/dist \
    --mount=type=bind,from=inventory,source=/inventory,target=/mnt/inventory \
    --mount=type=bind,source=container/image,target=/mnt/image \
    /opt/headway/bin/pip install -q --no-deps --no-compile --no-cache-dir --no-index --root-user-action=ignore /mnt/dist/*.whl; \
    cp /mnt/inventory/sbom.cdx.json /mnt/inventory/LICENSES.txt /usr/share/headway/; \
    PYTHONHASHSEED=0 /opt/headway/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/headway/lib/python3*/site-packages/headway; \
    ln -s /opt/headway/bin/headway /usr/local/bin/headway; \
    . /mnt/image/tidy.sh

# Everything that is ever written goes below /tmp/headway, so that --read-only --tmpfs /tmp and any uid work. HOME too: there may
# be no such user. Byte code is in the image already.
ENV HOME=/tmp/headway \
    HEADWAY_CACHE=/tmp/headway \
    XDG_CACHE_HOME=/tmp/headway \
    HF_HOME=/tmp/headway/huggingface \
    TRITON_CACHE_DIR=/tmp/headway/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/headway/inductor \
    PATH=/opt/headway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_DISABLE_TELEMETRY=1
# For the NVIDIA container toolkit; without it they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=unknown
ARG REVISION=unknown
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      com.amazonaws.sagemaker.capabilities.bidirectional-streaming=true \
      org.opencontainers.image.title=headway \
      org.opencontainers.image.description="Serves language models: SageMaker and OpenAI routes over an engine of its own" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      headway.variant=${VARIANT}
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 CMD ["headway", "health"]
ENTRYPOINT ["/opt/headway/bin/python", "-m", "headway.entrypoint"]
CMD ["serve"]
