# The container image: `make image`, or `docker build -t headway .` (CPU), `docker build --build-arg VARIANT=cuda ...` (NVIDIA GPUs).
# Needs BuildKit. docs/image.md explains the choices; tests/image/ builds this file and runs what comes out.
ARG BASE_IMAGE=debian:bookworm-slim

# -- the operating system -------------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS os
ARG VARIANT=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# procps: `docker exec ... ps` at night. The CUDA variant keeps a C compiler and Python's headers, because Triton compiles a
# launcher for each kernel in C when the kernel is first used; the CPU variant has none.
RUN case "$VARIANT" in cpu) extra= ;; cuda) extra="gcc libc6-dev libpython3-dev" ;; *) echo "VARIANT is cpu or cuda" >&2; exit 2 ;; esac; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends ca-certificates python3 procps $extra >/dev/null; \
    PYTHONHASHSEED=0 python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3.*

# -- Python packages, at the versions that the tests ran with ------------------------------------------------------------
FROM os AS packages
RUN apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
    python3 -m venv /opt/headway
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG VARIANT
# Where torch comes from when wheels/ has none; empty: the package index, whose torch is the CUDA build.
ARG TORCH_INDEX_URL=auto
# Only what it reads: a change of the code must not install everything anew.
RUN --mount=type=bind,source=container/image,target=/mnt --mount=type=bind,source=wheels,target=/media bash /mnt/packages.sh

# -- our own wheel, with the CPU kernels compiled, and what all of the image consists of ---------------------------------
FROM packages AS application
RUN apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ python3-dev >/dev/null; \
    python3 -m venv /opt/tools
RUN --mount=type=bind,source=container/image,target=/mnt /opt/tools/bin/pip install -q -r /mnt/tools.txt
COPY --from=os /var/lib/dpkg/status /dpkg-status
RUN --mount=type=bind,target=/mnt bash /mnt/container/image/application.sh

# -- three trees with fixed times: the same inputs give the same layers ----------------------------------------------------
FROM packages AS trees
ARG SOURCE_DATE_EPOCH=1735689600
RUN --mount=type=bind,from=os,target=/mnt --mount=type=bind,source=container/image,target=/media \
    bash /media/tree.sh /mnt /trees/os .
RUN --mount=type=bind,source=container/image,target=/media \
    bash /media/tree.sh / /trees/packages opt/headway
RUN --mount=type=bind,from=application,source=/application,target=/mnt --mount=type=bind,source=container/image,target=/media \
    bash /media/tree.sh /mnt /trees/application .

# -- the image ------------------------------------------------------------------------------------------------------------
FROM scratch AS final
COPY --from=trees /trees/os/ /
COPY --from=trees /trees/packages/ /
COPY --from=trees /trees/application/ /

# Everything that is ever written goes below /tmp/headway, so that --read-only --tmpfs /tmp and any uid work. HOME too: there may
# be no such user. Byte code is in the image already.
ENV HOME=/tmp/headway \
    HEADWAY_CACHE=/tmp/headway \
    XDG_CACHE_HOME=/tmp/headway \
    HF_HOME=/tmp/headway/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/headway/inductor \
    PATH=/opt/headway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_DISABLE_TELEMETRY=1
# For the NVIDIA container toolkit; without it they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VARIANT=cpu
ARG VERSION=unknown
ARG REVISION=unknown
# For the CUDA variant: the CUDA version that torch was built for, which SageMaker compares with the host's driver.
ARG CUDA_VERIFIED_VERSIONS=
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      com.amazonaws.sagemaker.capabilities.bidirectional-streaming=true \
      com.amazonaws.sagemaker.inference.cuda.verified_versions=${CUDA_VERIFIED_VERSIONS} \
      org.opencontainers.image.title=headway \
      org.opencontainers.image.description="Serves language models: SageMaker and OpenAI routes over an engine of its own" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      headway.variant=${VARIANT}
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 CMD ["python", "-m", "headway.entrypoint.healthcheck"]
ENTRYPOINT ["/opt/headway/bin/python", "-m", "headway.entrypoint"]
CMD ["serve"]
