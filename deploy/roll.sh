#!/bin/sh
# Puts a new image into the three servers of compose.yaml, one after the other, without losing a request:
#     DHVT_IMAGE=dhvt:NEW DHVT_TOKEN=… deploy/roll.sh
# Each is taken out of HAProxy and has 10 s for its requests, is replaced, and must be ready before the next one's turn.
set -eu
cd "$(dirname "$0")"

haproxy() {
    docker compose exec -T haproxy sh -c "echo '$1' | nc 127.0.0.1 9999"
}

# However this ends, also by Ctrl-C: a drained server would get no request for good. HAProxy asks it whether it is ready.
restore() {
    haproxy "set server dhvt/$server state ready" >/dev/null
}
trap 'exit 130' INT TERM HUP

for server in dhvt-1 dhvt-2 dhvt-3; do
    trap restore EXIT
    haproxy "set server dhvt/$server state drain" >/dev/null
    sleep 10
    docker compose up -d --no-deps "$server" || {
        echo "$server could not be replaced; the other servers are left as they are" >&2
        exit 1
    }
    haproxy "set server dhvt/$server health down" >/dev/null # until its health checks succeed
    restore
    trap - EXIT
    echo "$server: waiting until it is ready"
    tries=0
    until haproxy "show servers state dhvt" | awk -v name="$server" '$4 == name { up = $6 == 2 } END { exit !up }'; do
        tries=$((tries + 1))
        if [ "$tries" -ge 180 ]; then
            echo "$server is not ready after three minutes; the other servers are left as they are" >&2
            exit 1
        fi
        sleep 1
    done
done
