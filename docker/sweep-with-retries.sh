#!/usr/bin/env bash
# Runs `pareto-unlearn sweep` with the arguments given, and again while it ends with 9: a fault of the machine,
# after which the same command continues. Every other exit code is final; 3 (the sweep file) above all, which no
# repetition mends. TERM and INT reach the sweep, which then ends with 143 or 130 and can be continued.
set -uo pipefail

readonly machine_fault=9
attempts=${SWEEP_ATTEMPTS:-3}
pause=${SWEEP_PAUSE_SECONDS:-30}
stopped=0
child=

pass_on() {
    stopped=1
    [[ -z $child ]] || kill -s "$1" "$child" 2>/dev/null
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# A signal ends `wait` early; the code counts only once the process is gone.
wait_for() {
    local code
    while true; do
        wait "$1"
        code=$?
        kill -0 "$1" 2>/dev/null || return "$code"
    done
}

for ((attempt = 1; attempt <= attempts; attempt++)); do
    pareto-unlearn sweep "$@" &
    child=$!
    wait_for "$child"
    code=$?
    child=
    ((code == machine_fault && stopped == 0 && attempt < attempts)) || exit "$code"
    echo "sweep-with-retries: a fault of the machine (exit code 9), attempt $attempt of $attempts; again in $pause s" >&2
    sleep "$pause" &
    child=$!
    wait_for "$child"
    child=
    ((stopped == 0)) || exit "$code"
done
