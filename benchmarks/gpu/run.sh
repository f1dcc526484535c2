#!/usr/bin/env bash
# Everything that a machine with a GPU is to tell of this project, in at most eight minutes: README.md beside this file.
#
#     benchmarks/gpu/run.sh OUT [WHEELS]
#
# OUT takes the results, WHEELS holds what the machine's Python lacks. Nothing else is written but build/gpu in this checkout.
# DEVICE=cpu and CHECKPOINT=DIR try it without a GPU, on a small model.
set -euo pipefail
OUT=$(mkdir -p "${1:?usage: run.sh OUT [WHEELS]}" && cd "$1" && pwd)
WHEELS=${2:+$(cd "$2" && pwd)}
CHECKPOINT=${CHECKPOINT:+$(cd "$CHECKPOINT" && pwd)}
cd "$(dirname "$0")/../.."
source benchmarks/gpu/stage.sh
source benchmarks/gpu/prepare.sh

DEVICE=${DEVICE:-cuda}
case $DEVICE in cpu) DTYPE=float32 KERNELS=auto SMALL=1 ;; *) DTYPE=bfloat16 KERNELS=triton SMALL= ;; esac
# The limits add up to 445 s, and three seconds more for each stage that has to be killed.
install_wheels
"$PYTHON" -m benchmarks.gpu.missing run "${WHEELS:-wheels}" || exit 1
if [ -z "$CHECKPOINT" ]; then
    CHECKPOINT=$WORK/checkpoint
    stage checkpoint 15 "$PYTHON" -m benchmarks.gpu.checkpoint "$CHECKPOINT"
fi
MEASURE=(--out "$OUT" --device "$DEVICE" --checkpoint "$CHECKPOINT")
# Warnings of other releases than the locked ones fail nothing here.
PYTEST=("$PYTHON" -m pytest -q -W default -p no:cacheprovider -p no:benchmark --basetemp "$WORK/pytest")

# Which a service passes before it serves, and after which a few tokens come.
stage self-test 30 "$PYTHON" -m app generate 'The sea' --max-new-tokens 16 --model "$CHECKPOINT" --device "$DEVICE" --kernels $KERNELS
# Several tests at once: most of their time is the compilation of kernels. The compiler's part of them needs no card.
stage kernel-tests 75 "${PYTEST[@]}" -n 8 tests/model/cuda --ignore tests/model/cuda/test_compiles.py
stage gpu-tests 60 "${PYTEST[@]}" -n 8 -m gpu tests/model --ignore tests/model/cuda --ignore tests/model/native
# Requests over HTTP, alone and in company; the servers of this file's other tests would take too long to start.
stage invariance 40 "${PYTEST[@]}" -m gpu tests/api/test_batch_invariance.py -k 'company and auto-1 and not torch'
stage ladder 30 "$PYTHON" -m benchmarks.gpu.ladder "${MEASURE[@]}" ${SMALL:+--dtypes float32 --tokens 32}
stage ceilings 15 "$PYTHON" -m benchmarks.gpu.ceilings --out "$OUT" --device "$DEVICE" ${SMALL:+--copy-megabytes 16 --side 256}
stage decode 30 "$PYTHON" -m benchmarks.gpu.decode "${MEASURE[@]}" --dtype $DTYPE \
    ${SMALL:+--batches 1 4 --contexts 256 --rounds 1 --new-tokens 16}
stage transformers 75 "$PYTHON" -m benchmarks.gpu.transformers_generate "${MEASURE[@]}" --dtype $DTYPE ${SMALL:+--batches 1 4}
stage http 40 "$PYTHON" -m benchmarks.gpu.http_load "${MEASURE[@]}" --dtype $DTYPE ${SMALL:+--clients 1 4 --processes 2}
stage tax 35 "$PYTHON" -m benchmarks.gpu.tax "${MEASURE[@]}" --dtype $DTYPE ${SMALL:+--rows 1 --candidates 2}
"$PYTHON" -m benchmarks.gpu.table "$OUT" | tee "$OUT/table.txt"
