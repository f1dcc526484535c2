#!/usr/bin/env bash
# The default checkpoint, trained in five minutes on a machine with a GPU and no network: README.md beside this file.
#
#     benchmarks/gpu/train.sh CORPUS.tar.xz OUT [WHEELS] [-- OPTION...]
#
# CORPUS is of benchmarks.gpu.pack_corpus, OUT takes the model in parts, WHEELS holds what the machine's Python lacks. Options after
# -- are benchmarks.gpu.train's. Nothing else is written but build/gpu in this checkout. LIMIT=SECONDS is another time for all of it.
set -euo pipefail
END=$(($(date +%s) + ${LIMIT:-300}))
usage='usage: train.sh CORPUS.tar.xz OUT [WHEELS] [-- OPTION...]'
CORPUS=$(realpath -e "${1:?$usage}")
OUT=$(mkdir -p "${2:?$usage}" && cd "$2" && pwd)
shift 2
WHEELS=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    WHEELS=$(cd "$1" && pwd)
    shift
fi
if [ "${1:-}" = -- ]; then shift; fi
cd "$(dirname "$0")/../.."
source benchmarks/gpu/prepare.sh

# To the end of the time, each with some seconds of its own: the last step, after which the model is measured and saved; SIGINT, to the
# trainer alone, which ends it after its current step; SIGKILL, after which what was saved last is packed. No pipe: a compiler's
# process that is left behind would keep it open.
train() {
    rm -rf "$MODEL"
    timeout --foreground --signal=INT --kill-after=6 "$((END - 24 - $(date +%s)))" \
        "$PYTHON" -m benchmarks.gpu.train "$CORPUS" "$MODEL" --until "$((END - 34))" "$@" >> "$OUT/log.txt" 2>&1
}

install_wheels
MODEL=$WORK/model
if ! train "$@" && [ ! -e "$MODEL/model.safetensors" ]; then
    "$PYTHON" -m benchmarks.gpu.missing train "${WHEELS:-wheels}" >> "$OUT/log.txt" 2>&1 || true
    echo 'nothing was trained; once more, without compiling' >> "$OUT/log.txt"
    train "$@" --no-compile || true
fi
tail -n 20 "$OUT/log.txt"
timeout 15 "$PYTHON" -m benchmarks.gpu.parts split "$MODEL" "$OUT"
