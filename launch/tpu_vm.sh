#!/usr/bin/env bash
# Gets a TPU VM, or a pod slice of them, and keeps a run going on it until it has ended.
#
#   export TPU_NAME=qa TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-64
#   export TPU_RUNTIME=v2-alpha-tpuv5-lite TPU_SPOT=true
#   launch/tpu_vm.sh create            queues a request and waits until the TPU is there
#   launch/tpu_vm.sh setup             copies this checkout to all workers, installs it
#   launch/tpu_vm.sh run -- --config=configs/qa.py --workdir=gs://BUCKET/qa ...
#   launch/tpu_vm.sh status            the TPU's state, and what each worker does
#   launch/tpu_vm.sh logs [WORKER]     follows a worker's log (0)
#   launch/tpu_vm.sh delete            ends whatever runs, gives the TPU back
#
# What follows -- are the main command's own flags, the same on every worker. The workdir
# is a gs:// address: a TPU that is preempted takes its disks with it.
#
# Needs: gcloud, logged in (`gcloud auth login`) and with a project (`gcloud config set
# project NAME`) that has quota for the type in the zone; for more than one worker, its
# key in the agent (`ssh-add ~/.ssh/google_compute_engine`); a bucket that the TPU's
# service account may write to.
#
# `run` starts the run detached from the connection and watches it: interrupted and called
# again with the same flags, it watches on. Where the TPU is preempted, it queues another
# request, sets the TPU up, and the run goes on from its checkpoint. It goes on after exit
# status 143 (asked to end), after a crash $MAX_CRASHES (3) times, and never after 2, a
# mistake in the flags or the data.
set -euo pipefail

readonly MAX_CRASHES=${MAX_CRASHES:-3} POLL_SECONDS=${POLL_SECONDS:-30}
readonly SOURCES=(pyproject.toml constraints.txt README.md LICENSE jaxprompt configs)

say() { echo "launch/tpu_vm.sh: $*" >&2; }

fail() {
  say "$@"
  exit 2
}

need() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || fail "\$$name is not set; the head of this file has examples"
  done
}

tpus() { gcloud compute tpus "$@" --zone="$TPU_ZONE"; }

# Runs a command on a worker, or on `all`.
on() { tpus tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2"; }

# Prints ABSENT, the state of the request, or PREEMPTED, which the TPU may be before the
# request tells. Fails where gcloud does.
state() {
  local requests found node
  requests=$(tpus queued-resources list --format='value(name.basename(),state.state)') ||
    return
  found=$(awk -v name="$TPU_NAME" '$1 == name { print $2 }' <<< "$requests")
  if [[ $found == ACTIVE ]]; then
    node=$(tpus tpu-vm describe "$TPU_NAME" --format='value(state)') || return
    [[ $node != PREEMPTED ]] || found=PREEMPTED
  fi
  echo "${found:-ABSENT}"
}

# Whether a state is that of a TPU which was there and will not come back.
lost() { [[ $1 == FAILED || $1 == SUSPEND* || $1 == PREEMPTED ]]; }

create() {
  local now before='' spot=()
  now=$(state) || return
  if [[ $now == ABSENT ]]; then
    [[ ${TPU_SPOT:-false} != true ]] || spot=(--spot)
    tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
      --accelerator-type="$TPU_TYPE" --runtime-version="$TPU_RUNTIME" "${spot[@]}" ||
      return
  fi
  while now=$(state) && [[ $now != ACTIVE ]]; do
    if [[ $now == ABSENT ]] || lost "$now"; then
      say "the request is $now; look at type, zone and quota, delete it, create again"
      return 1
    fi
    [[ $now == "$before" ]] || say "waiting for the TPU: $now"
    before=$now
    sleep "$POLL_SECONDS"
  done
}

delete() { tpus queued-resources delete "$TPU_NAME" --force --quiet; }

setup() {
  local archive status=0
  archive=$(mktemp)
  tar -czf "$archive" -C "$(dirname "$0")/.." --exclude=__pycache__ "${SOURCES[@]}"
  tpus tpu-vm scp "$archive" "$TPU_NAME:jaxprompt.tar.gz" --worker=all || status=$?
  rm "$archive"
  ((status == 0)) || return "$status"
  # uv brings the Python: that of some TPU images is too old for jax.
  on all 'set -e
    mkdir -p jaxprompt
    cd jaxprompt
    tar -xzf ../jaxprompt.tar.gz
    curl -LsSf https://astral.sh/uv/install.sh | sh -s -- --quiet
    ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 .venv
    ~/.local/bin/uv pip install --quiet -p .venv -c constraints.txt -e ".[tpu]"'
}

# Starts the run on every worker that does not run it yet, which the lock tells. It waits
# a second for it, since `progress` takes it for a moment.
start() {
  local program
  program="trap : TERM
    rm -f run.status
    .venv/bin/python -m jaxprompt.main --distributed$(printf ' %q' "$@") >> run.log 2>&1
    echo \$? > run.status"
  on all "cd jaxprompt || exit
    nohup flock -w 1 run.lock bash -c $(printf '%q' "$program") < /dev/null &> /dev/null &"
}

# Prints a line for each worker: running, the status that its run has ended with, or none.
progress() {
  on all 'cd jaxprompt
    if ! flock -n run.lock true; then echo running
    elif [ -e run.status ]; then cat run.status
    else echo none
    fi'
}

# Of the lines of `progress`, prints 2 before any crash, a crash before 143 and that
# before 0.
worst() {
  awk '
    function rank(ended) { return ended == 2 ? 3 : ended == 143 ? 1 : ended == 0 ? 0 : 2 }
    NR == 1 || rank($1) > rank(found) { found = $1 }
    END { print found }'
}

# Waits until no worker runs; prints the worst status, or the state of a TPU that is gone.
# What cannot be found out now is asked again.
outcome() {
  local now found
  while sleep "$POLL_SECONDS"; do
    now=$(state) || continue
    if [[ $now == ABSENT ]] || lost "$now"; then
      echo "$now"
      return
    fi
    found=$(progress) || continue
    if ! grep -qx running <<< "$found"; then
      worst <<< "$found"
      return
    fi
  done
}

# Has a TPU in place of one that is lost.
replace() {
  say "the TPU is $1; asking for another"
  until [[ $(state) == ABSENT ]]; do
    delete || sleep "$POLL_SECONDS"
  done
  create && setup
}

run() {
  local now ended crashes=0
  [[ " $* " == *' --workdir='gs://* ]] || fail "'$*' has no --workdir=gs://BUCKET/..."
  now=$(state)
  [[ $now != ABSENT ]] || fail "there is no TPU $TPU_NAME in $TPU_ZONE; create it first"
  trap 'say "the run goes on; run watches it again, delete ends it"; exit 130' INT
  while true; do
    if lost "$now" && ! replace "$now"; then
      ended='no TPU'
    elif ! start "$@"; then
      ended='a worker cannot be reached'
    else
      say 'the run is under way: launch/tpu_vm.sh logs'
      ended=$(outcome)
    fi
    case $ended in
      0) say 'the run has ended' && return ;;
      2) say 'the run was refused: launch/tpu_vm.sh logs' && return 2 ;;
      ABSENT) say 'the TPU was deleted' && return 1 ;;
      143 | FAILED | SUSPEND* | PREEMPTED) ;;
      *)
        crashes=$((crashes + 1))
        say "crash $crashes of the $MAX_CRASHES that are survived: $ended"
        ((crashes <= MAX_CRASHES)) || return 1
        ;;
    esac
    until now=$(state); do sleep "$POLL_SECONDS"; done
  done
}

command=${1:-}
shift || true
need TPU_NAME TPU_ZONE
case $command in
  create)
    need TPU_TYPE TPU_RUNTIME
    create
    ;;
  setup) setup ;;
  run)
    need TPU_TYPE TPU_RUNTIME
    [[ ${1:-} == -- ]] || fail "'${1:-}' follows run; expected -- and the main command's flags"
    run "${@:2}"
    ;;
  status)
    state
    progress
    ;;
  logs) on "${1:-0}" 'tail -n 100 -F jaxprompt/run.log' ;;
  delete) delete ;;
  *) fail "'$command' is no command; expected create, setup, run, status, logs or delete" ;;
esac
