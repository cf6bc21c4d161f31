#!/bin/bash
# etcd 3.4.23 (Debian 12), one member, with TLS: clients need a certificate (`--client-cert-auth`). The server's own is
# one for servers: right names, right authority, extended key usage serverAuth and nothing else.
#
# Expected before it was run: all that a client with a good certificate asks is answered, by gRPC (etcdctl) and by the
# HTTP gateway of the same port (/v3). The kind of the client's certificate is what matters to the server.
#
# Seen:
#
#     serverAuth alone: etcdctl: done; /health: 200; the gateway: 503
#     serverAuth and clientAuth: etcdctl: done; /health: 200; the gateway: 200
#
# Why: the gateway is a client of its own server, and shows it the only certificate it has, which is no client's.
#
# What it means: everything that operators look with says that etcd is well, and every program that speaks HTTP to it is
# answered "unavailable" for ever. Public authorities issue for serverAuth alone; let your own issue for both, and see one
# call to the gateway, not `/health`.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs Debian 12's packages etcd-server, etcd-client,
# openssl and curl; only loopback, no root. Ten seconds.
set -euo pipefail

for wanted in etcd-server etcd-client; do
    version=$(dpkg-query -W -f '${Version}' "$wanted" 2>/dev/null || true)
    [[ $version == 3.4.23-* ]] || { echo "this is about $wanted 3.4.23; installed: ${version:-none}" >&2; exit 1; }
done
echo "etcd $version"
folder=$(mktemp -d)
child=
stop() {
    [[ -z $child ]] || { kill "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; }
    child=
}
trap 'stop; rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$folder"

new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${new[@]}" -subj /CN=authority -keyout ca.key -out ca.pem -days 9 2>/dev/null
sign() { # NAME USAGE
    openssl req "${new[@]}" -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=%s\n' "$2" > ext
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out "$1.pem" -days 9 2>/dev/null
}
sign client clientAuth
sign serverAuth serverAuth
sign both serverAuth,clientAuth
read -r port peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)), b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
url=https://127.0.0.1:$port
status() { curl --silent --max-time 10 --output answer --write-out '%{http_code}' --cacert ca.pem --cert client.pem --key client.key "$@" || true; }
put() { ETCDCTL_API=3 etcdctl --endpoints="$url" --cacert=ca.pem --cert=client.pem --key=client.key put a b > /dev/null 2>&1; }
look() { # CERTIFICATE: what is seen
    etcd --data-dir "data-$1" --listen-client-urls "$url" --advertise-client-urls "$url" \
        --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
        --initial-cluster "default=http://127.0.0.1:$peer" \
        --client-cert-auth --trusted-ca-file ca.pem --cert-file "$1.pem" --key-file "$1.key" > "$1.log" 2>&1 &
    child=$!
    local end=$((SECONDS + 30)) done=failed
    until [[ $(status "$url/health") == 200 ]]; do
        ((SECONDS < end)) || { echo "etcd does not come up" >&2; tail -n 5 "$1.log" >&2; exit 1; }
        sleep 0.2
    done
    ! put || done=done
    seen="etcdctl: $done; /health: $(status "$url/health"); the gateway: $(status "$url/v3/kv/range" --data '{"key": "YQ=="}')"
    stop
}
failed=0
expect() { # WORDS EXPECTED
    echo "$1: $seen"
    [[ $seen == "$2" ]] || { echo "expected: $2; it says: $(head -c 300 answer)" >&2; failed=1; }
}
look serverAuth
expect "serverAuth alone" "etcdctl: done; /health: 200; the gateway: 503"
look both
expect "serverAuth and clientAuth" "etcdctl: done; /health: 200; the gateway: 200"
exit "$failed"
