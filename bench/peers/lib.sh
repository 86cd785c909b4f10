# What the peers' `run` and `setup` have in common; sourced by them. The sourcing script has set `peer`, its name.

readonly peers_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly peer_source=$peers_root/bench/peers/$peer
readonly peer_tools=$peers_root/.tools/bench/$peer
PATH=$PATH:/usr/sbin:/usr/local/sbin

die() {
    echo "bench/peers/$peer: $*" >&2
    exit 1
}

# run ---------------------------------------------------------------------------------------------------------------------

# arguments VARIANTS "$@": what `run` was called with becomes work, port, upstream_port, workers, variant and, with calls=N, calls.
arguments() {
    local variants=$1
    shift
    if [ "${1:-}" = --variants ]; then
        printf '%s\n' $variants
        exit
    fi
    [ $# = 5 ] || { echo "usage: bench/peers/$peer/run WORK PORT UPSTREAM_PORT WORKERS VARIANT | --variants" >&2; exit 64; }
    work=$(cd "$1" && pwd) port=$2 upstream_port=$3 workers=$4 variant=${5%%=*} calls=
    [[ " $variants " = *" $variant "* ]] || die "there is no variant $5; there are: $variants"
    if [ "$variant" = calls ]; then
        calls=${5#calls=}
        [[ $calls =~ ^[0-9]+$ ]] || die "calls=N needs a number, not $5"
    fi
    # 20,000 clients and as many connections to the upstream, where the machine lets us. Some peers make tables of this size.
    local limit
    limit=$(ulimit -Hn)
    [ "$limit" != unlimited ] && [ "$limit" -lt 40100 ] || limit=40100
    ulimit -n "$limit"
}

children=()

# spawn COMMAND...: starts a child that ends when this script does, even if that is killed.
spawn() {
    trap 'exit 0' TERM INT
    trap stop_children EXIT
    setpriv --pdeathsig TERM -- "$@" &
    children+=($!)
}

stop_children() {
    local status=$?
    trap '' TERM INT
    kill "${children[@]}" 2>/dev/null || true
    wait "${children[@]}" 2>/dev/null || true
    exit "$status"
}

# Serves until SIGTERM or SIGINT. A child that ends by itself is an error.
serve_until_terminated() {
    wait -n "${children[@]}" || true
    die "a process ended by itself; what it wrote is in $work"
}

# Starts the peer's agent on WORK/agent.socket and returns when it listens: it must be there before the first request is.
spawn_agent() {
    needs "$peer_tools/agent"
    rm -f "$work/agent.socket"
    spawn "$peer_tools/agent" "$work/agent.socket" "$calls"
    local tries
    for tries in $(seq 200); do
        [ ! -S "$work/agent.socket" ] || return 0
        sleep 0.05
    done
    die "the agent does not listen on $work/agent.socket"
}

needs() { # FILE...
    local file
    for file in "$@"; do
        command -v "$file" >/dev/null || die "$file is missing: scripts/setup bench, then bench/peers/$peer/setup"
    done
}

# setup -------------------------------------------------------------------------------------------------------------------

# Builds PEER/agent into .tools/bench/PEER/agent. The modules are pinned by go.sum; once they are in the module cache this works offline.
build_agent() {
    local built=$peer_tools/agent
    if [ -x "$built" ] && [ -z "$(find "$peer_source/agent" -type f -newer "$built")" ]; then return; fi
    echo "setup: building the agent of $peer"
    mkdir -p "$peer_tools"
    (cd "$peer_source/agent" && go build -mod=readonly -buildvcs=false -o "$built" .)
    touch "$built"
}

# Installs PEER/requirements.txt from PyPI into .tools/bench/PEER/venv.
install_venv() {
    local venv=$peer_tools/venv
    if cmp -s "$peer_source/requirements.txt" "$venv/installed"; then return; fi
    echo "setup: installing $peer from PyPI"
    mkdir -p "$peer_tools"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$peer_source/requirements.txt"
    cp "$peer_source/requirements.txt" "$venv/installed"
}
