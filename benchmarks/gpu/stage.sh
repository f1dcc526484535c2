# Runs stages one after another, each within a limit of its own, and notes how each ended: to be sourced, with OUT set.

# stage NAME SECONDS COMMAND...: what it prints goes to log.txt, its last line to the terminal, how it ended to stages.tsv.
# It always succeeds: whatever a stage does, the next one runs. Children of a command that is ended are ended with it.
stage() {
    local name=$1 limit=$2 started=$SECONDS code=0
    shift 2
    printf '%4d s  %s, %d s at most\n' "$SECONDS" "$name" "$limit"
    printf '\n===== %s: %s\n' "$name" "$*" >> "$OUT/log.txt"
    timeout --signal=TERM --kill-after=3 "$limit" "$@" > "$OUT/log.part" 2>&1 < /dev/null || code=$?
    cat "$OUT/log.part" >> "$OUT/log.txt"
    # 124 and 137 are what `timeout` says of a command that it has ended.
    local outcome=done
    case $code in 0) ;; 124 | 137) outcome=overran ;; *) outcome=failed ;; esac
    printf '%s\t%s\t%d\t%d\t%d\n' "$name" "$outcome" "$code" "$((SECONDS - started))" "$limit" >> "$OUT/stages.tsv"
    printf '%4d s  %s %s: %s\n' "$SECONDS" "$name" "$outcome" "$(tail -n 1 "$OUT/log.part")"
    rm -f "$OUT/log.part"
}
