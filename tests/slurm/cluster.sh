# shellcheck shell=bash
# cluster.sh - a Slurm of two nodes on this host, from Debian's packages; sourced.
#
# Everything is its own: folder, ports, munge key and sockets, so that another Slurm or munge on the
# host, or a second run of this test, is not touched. Both nodes are this host under two names: one
# slurmd each. All processes but slurmstepd carry LAMINA_CLUSTER in their environment and that one has a
# log of the folder open: by these cluster_close finds what is left and ends it, nothing else.

cluster_nodes=(n1 n2)

# What keeps Slurm from being started here; nothing when it can be.
cluster_lacks() {
    local name
    for name in slurmctld slurmd slurmstepd munged sbatch scontrol; do
        cluster_find "$name" >/dev/null || { echo "$name is not installed" && return; }
    done
    [ "$(id -u)" = 0 ] || { echo "slurmd has to be root to start jobs" && return; }
    getent hosts "$(hostname)" >/dev/null || echo "the host's name $(hostname) has no address"
}

# Daemons lie in /usr/sbin, which is not in every PATH.
cluster_find() {
    PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1"
}

# A TCP port nobody listens on. Slurm's ports are outside the range that the kernel hands out.
cluster_port() {
    local port try
    for ((try = 0; try < 200; try++)); do
        port=$((10000 + RANDOM % 20000))
        case " ${cluster_ports[*]} " in *" $port "*) continue ;; esac
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
        cluster_ports+=("$port")
        return
    done
    return 1
}

cluster_write_conf() {
    local host index=1 node
    host=$(hostname -s)
    cat <<CONF
ClusterName=lamina
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=${cluster_ports[0]}
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool.%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.%n.log
TmpFS=$cluster/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
MessageTimeout=10
KillWait=30
OverTimeLimit=0
MinJobAge=300
PropagateResourceLimits=NONE
CONF
    for node in "${cluster_nodes[@]}"; do
        echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=${cluster_ports[$index]} CPUs=64 Sockets=1 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=1000 Feature=kind$index"
        index=$((index + 1))
    done
    echo "PartitionName=test Nodes=$(IFS=, && echo "${cluster_nodes[*]}") Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
}

# cluster_daemon NAME ARGUMENT...: in the background, its words in NAME.out, its process remembered.
cluster_daemon() {
    local name=$1 program
    program=$(cluster_find "${name%%.*}")
    shift
    "$program" "$@" >"$cluster/$name.out" 2>&1 </dev/null &
    cluster_daemons[$name]=$!
}

# cluster_open FOLDER: start it there; FOLDER must have a short path (sockets) that all may enter.
cluster_open() {
    local node until
    cluster=$1
    cluster_ports=()
    declare -gA cluster_daemons=()
    export LAMINA_CLUSTER=$cluster SLURM_CONF=$cluster/slurm.conf
    mkdir -p "$cluster"/{state,munge} || return
    chmod 755 "$cluster" "$cluster/munge"
    head -c 128 /dev/urandom >"$cluster/munge/key"
    chmod 400 "$cluster/munge/key"
    for node in controller "${cluster_nodes[@]}"; do cluster_port || return; done
    cluster_write_conf >"$SLURM_CONF"
    cluster_daemon munged --foreground --key-file="$cluster/munge/key" \
        --socket="$cluster/munge/socket" --pid-file="$cluster/munge/pid" \
        --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed"
    until=$((SECONDS + 10))
    until [ -S "$cluster/munge/socket" ]; do
        [ $SECONDS -lt $until ] || return
        sleep 0.1
    done
    cluster_daemon slurmctld -D -f "$SLURM_CONF"
    for node in "${cluster_nodes[@]}"; do
        mkdir -p "$cluster/spool.$node" "$cluster/tmp.$node"
        cluster_start_node "$node"
    done
    until=$((SECONDS + 40))
    until [ "$(sinfo -h -o %T 2>/dev/null | sort -u)" = idle ]; do
        [ $SECONDS -lt $until ] || return
        sleep 0.2
    done
}

cluster_start_node() {
    cluster_daemon "slurmd.$1" -D -N "$1" -f "$SLURM_CONF"
}

# End a node as a power cut does: its daemon, its steps, what they run.
cluster_stop_node() {
    local process
    for process in $(cluster_processes); do
        case $(readlink "/proc/$process/exe") in
        */slurmd*) tr '\0' ' ' <"/proc/$process/cmdline" | grep -q -- "-N $1 " || continue ;;
        */slurmstepd*) [ -n "$(find "/proc/$process/fd" -lname "$cluster/slurmd.$1.log" 2>/dev/null)" ] || continue ;;
        *) tr '\0' '\n' <"/proc/$process/environ" | grep -qx "SLURMD_NODENAME=$1" || continue ;;
        esac
        kill -KILL "$process"
    done 2>/dev/null
}

# The processes of this cluster, one a line: those with its mark (daemons, what jobs run), and those
# with a file of it open (slurmstepd, which drops its environment). Not this shell, which was started
# without the mark.
cluster_processes() (
    unset LAMINA_CLUSTER # or the commands here would find each other
    {
        grep -lz "^LAMINA_CLUSTER=$cluster\$" /proc/[0-9]*/environ
        find /proc/[0-9]*/fd -lname "$cluster/*"
    } 2>/dev/null | cut -d / -f 3 | sort -u
)

# End whatever carries this cluster's mark: politely, then at once. Jobs first, so that their ranks
# are not orphaned by daemons.
cluster_close() {
    local name until
    [ -n "${cluster:-}" ] || return 0
    for name in "${!cluster_daemons[@]}"; do kill -TERM "${cluster_daemons[$name]}" 2>/dev/null; done
    until=$((SECONDS + 5))
    while [ -n "$(cluster_processes)" ] && [ $SECONDS -lt $until ]; do sleep 0.2; done
    for name in 1 2 3; do
        # shellcheck disable=SC2046 # one word a process
        kill -KILL $(cluster_processes) 2>/dev/null
        sleep 0.2
    done
    wait "${cluster_daemons[@]}" 2>/dev/null
    [ -z "$(cluster_processes)" ]
}
