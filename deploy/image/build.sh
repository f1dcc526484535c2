#!/usr/bin/env bash
# Builds an image of this tree: deploy/image/build.sh cpu|slim|cuda, which is gpt2-service:cpu and so on.
# By Docker where its engine answers, else by buildah as root, which needs no engine.
#   BASE=IMAGE          takes another base than the Dockerfile's
#   BASE=debootstrap    takes nothing from a registry of images: the base is Debian 12 with its Python 3.11, made by mmdebstrap, and
#                       the packages are those that this machine's own pip finds, whatever its configuration says
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${1:-cpu}
case $target in cpu | slim | cuda) ;; *) echo "build.sh: the target is '$target'; there are cpu, slim and cuda" >&2; exit 2 ;; esac
python=${PYTHON:-python3}
debian=localhost/gpt2-base:bookworm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

need() { command -v "$1" >/dev/null || { echo "build.sh: $1 is missing: apt-get install $1" >&2; exit 2; }; }

# With what python:3.11-slim has and the Dockerfile asks for, and no more; an image that is there already is taken again.
make_base() {
    need mmdebstrap
    if buildah images --quiet "$debian" >/dev/null 2>&1; then return; fi
    mmdebstrap --quiet --variant=apt --include=ca-certificates,python-is-python3,python3,python3-venv \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$work/base.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base.tar" / >/dev/null
    buildah commit --quiet --rm "$container" "$debian" >/dev/null
    rm "$work/base.tar"
}

download_packages() {
    local machine version
    machine=$(uname -m)
    local for_image=(--quiet --python-version 3.11 --implementation cp --only-binary :all: --dest "$work/packages")
    # pip does not take the wheels of an older system by itself; Debian 12 has glibc 2.36.
    for version in _2_{36..17} 2014; do for_image+=(--platform "manylinux${version}_$machine"); done
    "$python" -m pip download "${for_image[@]}" --no-deps --require-hashes -r requirements.lock
    if [ "$target" != slim ]; then
        "$python" -m pip download "${for_image[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r requirements-torch.txt
    fi
}

options=(--target "$target" --tag "gpt2-service:$target")
version=$("$python" -c 'from app.version import VERSION; print(VERSION)')
revision=$(git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null || echo unknown)
created=$(date --utc --iso-8601=seconds --date="@${SOURCE_DATE_EPOCH:-$(date +%s)}")
options+=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "CREATED=$created")

if [ "${BASE:-}" = debootstrap ]; then
    need buildah
    make_base
    download_packages
    options+=(--build-arg "BASE=$debian" --build-arg PIP_NO_INDEX=1 --build-context "packages=$work/packages")
elif [ -n "${BASE:-}" ]; then
    options+=(--build-arg "BASE=$BASE")
fi
if [ "${BASE:-}" != debootstrap ] && has_docker; then
    docker build "${options[@]}" .
else
    need buildah
    # Docker's format, for OCI's knows no HEALTHCHECK; layers, so that each instruction has its own.
    buildah bud --isolation chroot --format docker --layers "${options[@]}" .
    # It takes a LABEL from its cache whatever the arguments are that stand in it: so they are told once more.
    container=$(buildah from --pull-never "localhost/gpt2-service:$target")
    for label in "version=$version" "revision=$revision" "created=$created"; do
        buildah config --label "org.opencontainers.image.$label" "$container"
    done
    buildah commit --quiet --format docker --rm "$container" "gpt2-service:$target"
fi
