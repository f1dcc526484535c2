# Two images from one file:
#   docker build --target cpu  -t gpt2-service:cpu .
#   docker build --target cuda -t gpt2-service:cuda .    the wheels carry CUDA 13.0; the host needs NVIDIA's driver, 580 or newer
# each for x86-64 and 64-bit Arm; for the other one than the host's, through QEMU, by buildx:
#   docker buildx build --platform linux/amd64,linux/arm64 --target cpu -t gpt2-service:cpu .
ARG BASE=python:3.11-slim

# ---- what both need, at the locked versions
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/gpt2/bin:${PATH}
WORKDIR /src
# For the native step; a version's number would be gone from the mirrors with Debian's next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/gpt2
COPY requirements.lock requirements-torch.txt ./
RUN pip install --require-hashes -r requirements.lock

# ---- torch, from an index that serves nothing but the right kind; its generic dependencies are in the lock
FROM build AS build-cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
RUN pip install --index-url "${TORCH_INDEX}" -r requirements-torch.txt
COPY . .
RUN GPT2_REQUIRE_NATIVE=1 pip install --no-deps --no-build-isolation .

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --index-url "${TORCH_INDEX}" -r requirements-torch.txt
COPY . .
RUN GPT2_REQUIRE_NATIVE=1 pip install --no-deps --no-build-isolation .

# ---- what runs: no setuid file, nobody with a shell
FROM ${BASE} AS runtime
RUN groupadd --gid 10001 gpt2 \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --shell /usr/sbin/nologin gpt2 \
    && install -d -o gpt2 -g gpt2 /var/cache/gpt2 \
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

# In these wheels the cards from compute capability 7.5 on (Turing) have code, and Triton's kernels run from 8.0 on (Ampere).
FROM runtime AS cuda
USER 0
# Triton compiles its link to the driver, a file in C, where its cache has none. Of compilers it takes gcc first (212 MB); tcc (25 MB)
# cannot link to a file by its name (-l:libcuda.so.1), which is what Triton asks for.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
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
RUN python -c 'from model.native.library import load_library; load_library()'

# Last, so that a build without --target makes the image that runs everywhere.
FROM runtime AS cpu
COPY --from=build-cpu /opt/gpt2 /opt/gpt2
# The native step finds here all that it links to, which is the C++ library that torch links to as well: Debian's base has it for apt.
RUN python -c 'from model.native.library import load_library; load_library()'
