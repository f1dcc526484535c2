#!/usr/bin/env bash
# The default checkpoint, trained in six minutes on a machine with a GPU and no network: README.md beside this file.
#
#     benchmarks/gpu/train.sh CORPUS.tar.xz OUT [WHEELS] [-- OPTION...]
#
# CORPUS is of benchmarks.gpu.pack_corpus, OUT takes the model in parts, WHEELS holds what the machine's Python lacks. Options after
# -- are benchmarks.gpu.train's. Nothing else is written but build/gpu in this checkout.
set -euo pipefail
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

prepare train
MODEL=$WORK/model
rm -rf "$MODEL"
# Three and a half minutes of steps; loading, compiling and measuring take the rest. SIGINT, to the trainer alone, ends training after its current
# step: what is best so far is measured and saved all the same.
timeout --foreground --signal=INT --kill-after=25 320 "$PYTHON" -m benchmarks.gpu.train "$CORPUS" "$MODEL" "$@" 2>&1 |
    tee -a "$OUT/log.txt" || echo "training ended early, with ${PIPESTATUS[0]}"
timeout 15 "$PYTHON" -m benchmarks.gpu.parts split "$MODEL" "$OUT"
