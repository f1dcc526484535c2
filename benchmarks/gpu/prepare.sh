# What both scripts begin with: to be sourced at the checkout's root, with OUT and WHEELS set.

PYTHON=${PYTHON:-python3}
WORK=$PWD/build/gpu
# Whatever caches what it compiles does so here.
export TRITON_CACHE_DIR=$WORK/triton TORCHINDUCTOR_CACHE_DIR=$WORK/inductor XDG_CACHE_HOME=$WORK/cache TMPDIR=$WORK/tmp
export CUDA_CACHE_PATH=$WORK/cuda MPLCONFIGDIR=$WORK/matplotlib HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
# Packages that were compiled as they were installed are taken so; others, which would be compiled in each process, once.
torch=$("$PYTHON" -c 'import importlib.util; print(*importlib.util.find_spec("torch").submodule_search_locations)' || true)
if compgen -G "$torch/_inductor/__pycache__/*.pyc" > /dev/null; then
    export PYTHONDONTWRITEBYTECODE=1
else
    export PYTHONPYCACHEPREFIX=$WORK/pycache
fi

# install_wheels: beside the machine's own packages.
install_wheels() {
    rm -rf "$WORK/site" "$WORK/pytest"
    mkdir -p "$WORK/site" "$TMPDIR"
    rm -f "$OUT"/{results.json,stages.tsv,table.txt,log.txt}
    export PYTHONPATH=$WORK/site
    if [ -n "$WHEELS" ] && compgen -G "$WHEELS/*.whl" > /dev/null; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" "$WHEELS"/*.whl \
            >> "$OUT/log.txt" 2>&1 || { tail -n 3 "$OUT/log.txt"; exit 1; }
    fi
}
