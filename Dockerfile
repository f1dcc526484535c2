# Three images from one file; docs/images.md says which is for what, and how to build them without Docker:
#   docker build --target cpu  -t gpt2-service:cpu .     serves, trains and measures
#   docker build --target slim -t gpt2-service:slim .    serves alone, by the native step: no PyTorch
#   docker build --target cuda -t gpt2-service:cuda .    the wheels carry CUDA 13.0; the host needs NVIDIA's driver, 580 or newer
# each for x86-64 and 64-bit Arm; for the other one than the host's, through QEMU, by buildx:
#   docker buildx build --platform linux/amd64,linux/arm64 --target cpu -t gpt2-service:cpu .
ARG BASE=python:3.11-slim

# ---- a folder of packages in the place of the indexes: --build-context packages=FOLDER --build-arg PIP_NO_INDEX=1
FROM scratch AS packages

# ---- what all need, at the locked versions; Python's code is compiled once all is there, since a read-only root keeps nothing
FROM ${BASE} AS build
# As a variable too: not every builder hands arguments down to the stages made from this one. pip passes over an empty one.
ARG PIP_NO_INDEX=
ENV PIP_NO_INDEX=${PIP_NO_INDEX} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/packages \
    PATH=/opt/gpt2/bin:${PATH}
WORKDIR /src
# For the native step; a version's number would be gone from the mirrors with Debian's next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/gpt2
COPY requirements.lock requirements-torch.txt ./
RUN --mount=type=bind,from=packages,target=/packages \
    pip install --no-compile --require-hashes -r requirements.lock

# ---- the service: a layer of its own, so that an update of it is no update of a gigabyte of packages
FROM build AS service
COPY . .
RUN GPT2_REQUIRE_NATIVE=1 pip install --no-compile --no-deps --no-build-isolation --root /service . \
    && python -m compileall -q -f --invalidation-mode unchecked-hash -s /service /service

# ---- torch, from an index that serves nothing but the right kind; its generic dependencies are in the lock. One file of its tests is in
# ---- the syntax of Python 3.12.
FROM build AS build-cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
RUN --mount=type=bind,from=packages,target=/packages \
    pip install --no-compile --index-url "${TORCH_INDEX}" -r requirements-torch.txt \
    && pip uninstall --yes pip \
    && python -m compileall -q -f -j 0 -x /py312_ --invalidation-mode unchecked-hash /opt/gpt2/lib

# Its headers and own tests, 145 MB, are for those who compile against it.
FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=packages,target=/packages \
    pip install --no-compile --index-url "${TORCH_INDEX}" -r requirements-torch.txt \
    && pip uninstall --yes pip \
    && rm -r /opt/gpt2/lib/python3*/site-packages/torch/include /opt/gpt2/lib/python3*/site-packages/torch/test \
    && python -m compileall -q -f -j 0 -x /py312_ --invalidation-mode unchecked-hash /opt/gpt2/lib

# What of the lock is torch's alone is left out with it.
FROM build AS build-slim
RUN pip uninstall --yes mpmath networkx setuptools sympy pip \
    && python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/gpt2/lib

# ---- what runs: no setuid file, nobody with a shell, the standard library compiled where the base has left that out
FROM ${BASE} AS runtime
RUN groupadd --gid 10001 gpt2 \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --shell /usr/sbin/nologin gpt2 \
    && install -d -o gpt2 -g gpt2 /var/cache/gpt2 \
    && library="$(python -c 'import os; print(os.path.dirname(os.__file__))')" \
    && python -m compileall -q -x '/(lib2to3|test|tests|site-packages)/' --invalidation-mode unchecked-hash "${library}" \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY deploy/healthcheck.py /opt/healthcheck.py
# Checkpoints are mounted at /srv/models, so that GPT2_MODEL=models/NAME means the same in here and in a checkout.
WORKDIR /srv
ENV PATH=/opt/gpt2/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/var/cache/gpt2 \
    GPT2_HOST=0.0.0.0 \
    GPT2_PORT=8000
EXPOSE 8000
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "/opt/healthcheck.py"]
ENTRYPOINT ["gpt2", "serve"]
# Told by `make image` and `make release`; last, since they change with each commit.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="gpt2-service" \
    org.opencontainers.image.description="An HTTP service that generates text with GPT-2" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"

# In these wheels the cards from compute capability 7.5 on (Turing) have code, and Triton's kernels run from 8.0 on (Ampere).
FROM runtime AS cuda
USER 0
# Triton compiles its link to the driver, a file in C, where its cache has none. Of compilers it takes gcc first (212 MB); tcc (25 MB)
# cannot link to a file by its name (-l:libcuda.so.1), which is what Triton asks for.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
# What a base image of NVIDIA's own would have said: mount the driver, and start on none that is older than CUDA 13.0 (580).
# What Triton compiles lies where a volume keeps it, and where libraries may be loaded from, which /tmp often forbids (noexec).
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0" \
    TRITON_CACHE_DIR=/var/cache/gpt2/triton
# The first start on a kind of card compiles the kernels.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 CMD ["python", "-I", "/opt/healthcheck.py"]
COPY --from=build-cuda /opt/gpt2 /opt/gpt2
COPY --from=service /service /
RUN python -c 'from model.native.library import load_library; load_library()'

FROM runtime AS slim
COPY --from=build-slim /opt/gpt2 /opt/gpt2
COPY --from=service /service /
# The native step finds here all that it links to: Debian's base has the C++ library for apt, and with PyTorch comes the same one.
RUN python -c 'from model.native.library import load_library; load_library()'

# Last, so that a build without --target makes the image that does everything and runs everywhere.
FROM runtime AS cpu
COPY --from=build-cpu /opt/gpt2 /opt/gpt2
COPY --from=service /service /
RUN python -c 'from model.native.library import load_library; load_library()'
