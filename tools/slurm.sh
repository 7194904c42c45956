#!/bin/sh
# A Slurm of one machine, to try `--cluster slurm` and to run tests/test_slurm.py. As root:
#
#   apt-get install slurm-wlm munge
#   tools/slurm.sh start     # writes a configuration, starts munged, slurmctld and slurmd
#   export SLURM_CONF=/tmp/one-slurm/slurm.conf
#   sinfo                    # one node, idle
#   tools/slurm.sh stop
#
# Everything lies in one folder (ONE_SLURM, else /tmp/one-slurm); /etc is not touched.
set -eu
folder=${ONE_SLURM:-/tmp/one-slurm}
export SLURM_CONF="$folder/slurm.conf"

fail() { echo "error: $*" >&2; exit 2; }

write_configuration() {
    host=$(hostname -s)
    # a key of our own, so that no other cluster is reached by mistake
    mkdir -p "$folder/munge" "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    chmod 700 "$folder/munge"
    [ -f "$folder/munge/key" ] || head -c 128 /dev/urandom > "$folder/munge/key"
    chmod 400 "$folder/munge/key"
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
    # a job that is queued again waits for cred_expire seconds (120 where it is not given)
    cat > "$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host
SlurmctldPort=${ONE_SLURM_PORT:-16817}
SlurmdPort=$((${ONE_SLURM_PORT:-16817} + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5,requeue_delay=1
MpiDefault=none
ReturnToService=2
MinJobAge=300
KillWait=10
NodeName=$host CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory State=UNKNOWN
PartitionName=short Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
}

running() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

start() {
    for name in munged slurmctld slurmd sinfo; do
        command -v "$name" > /dev/null || fail "no $name; apt-get install slurm-wlm munge"
    done
    [ "$(id -u)" = 0 ] || fail 'the daemons need root'
    write_configuration
    running "$folder/munge/pid" || munged --force --key-file="$folder/munge/key" \
        --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    running "$folder/slurmctld.pid" || slurmctld
    running "$folder/slurmd.pid" || slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --states=idle --format=%t 2> /dev/null | grep -q idle; then
            echo "one node is idle; export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2 || true
    fail 'no idle node after 30 seconds'
}

stop() {
    for file in slurmd.pid slurmctld.pid munge/pid; do
        running "$folder/$file" || continue
        pid=$(cat "$folder/$file")
        kill "$pid"
        for _ in $(seq 40); do kill -0 "$pid" 2> /dev/null || break; sleep 0.25; done
    done
    echo 'stopped'
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    *) fail 'give start or stop' ;;
esac
