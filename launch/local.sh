#!/usr/bin/env bash
# Runs the main command as N processes on this machine.
#
#   launch/local.sh N -- --config=configs/qa.py --workdir=runs/qa ...
#
# What follows -- are the main command's own flags, the same for every process.
#
# Needs: bash 4.4, and the package installed for `python`, or for $PYTHON.
#
# Devices: process I has GPU I, or the CPU. XLA_FLAGS is passed on, so that
# --xla_force_host_platform_device_count=2 gives every process two CPU devices. A TPU VM
# wants one process for all its chips: there, run the main command itself.
#
# Output: process 0 has the terminal; lines of the others go to standard error with their
# number in front. They are few, since only process 0 tells of progress.
#
# Ends when all processes have ended. SIGTERM and SIGINT are passed on to all. After one
# has failed the others have $GRACE_SECONDS (120) to end by themselves, then they are
# killed. The exit status is the worst: 2 (a mistake in the flags or the data), else a
# crash's, else 143 (asked to end: run again to go on), else 0.
set -euo pipefail
set -m # without job control bash has its background processes ignore SIGINT

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "'${1:-}' is no number of processes; expected N -- FLAGS"
[[ ${2:-} == -- ]] || fail "'${2:-}' follows the number of processes; expected N -- FLAGS"
processes=$1
shift 2
grace=${GRACE_SECONDS:-120}

free_port() {
  local port
  while port=$((10000 + RANDOM % 20000)); do
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break # nobody answers there
  done
  echo "$port"
}

# Copies standard input to standard error, a number in front of each line.
prefix() {
  local line
  trap '' INT TERM # it has to outlive its process
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line" >&2
  done
}

pids=()      # of the processes
statuses=()  # their exit statuses, '' while they run
prefixers=() # pids

# Sends a signal to the processes that still run; KILL also to what they have started.
signal_all() {
  local i target
  for i in "${!pids[@]}"; do
    target=${pids[i]}
    [[ $1 != KILL ]] || target=-$target # the group
    [[ -n ${statuses[i]} ]] || kill "-$1" -- "$target" 2> /dev/null || true
  done
}

trap 'signal_all TERM' TERM
trap 'signal_all INT' INT
trap 'signal_all KILL' EXIT

start() {
  JAX_PROCESS_ID=$1 JAX_LOCAL_DEVICE_IDS=$1 \
    exec "${PYTHON:-python}" -m jaxprompt.main --distributed "${@:2}"
}

JAX_COORDINATOR_ADDRESS=127.0.0.1:$(free_port)
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$processes

for ((i = 0; i < processes; i++)); do
  statuses[i]=''
  if ((i == 0)); then
    start 0 "$@" &
    pids[i]=$!
  else
    exec {lines}> >(prefix "$i")
    prefixers+=($!)
    start "$i" "$@" >&"$lines" 2>&1 &
    pids[i]=$!
    exec {lines}>&-
  fi
done

running=1
deadline=''
while ((running)); do
  running=0
  for i in "${!pids[@]}"; do
    if [[ -n ${statuses[i]} ]]; then
      continue
    elif kill -0 "${pids[i]}" 2> /dev/null; then
      running=1
      continue
    fi
    statuses[i]=0
    wait "${pids[i]}" || statuses[i]=$?
    if ((statuses[i])) && [[ -z $deadline ]]; then
      deadline=$((SECONDS + grace))
    fi
  done
  if [[ -n $deadline ]] && ((running && SECONDS >= deadline)); then
    signal_all KILL
  fi
  sleep 0.1
done
for pid in "${prefixers[@]}"; do
  wait "$pid" || true
done

# 0 and 143 give way to a crash, all of them to 2.
worst=0
for status in "${statuses[@]}"; do
  case $status:$worst in
    0:* | *:2) ;;
    143:0 | 2:*) worst=$status ;;
    143:*) ;;
    *:0 | *:143) worst=$status ;;
  esac
done
exit "$worst"
