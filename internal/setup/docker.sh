#!/usr/bin/env bash
# Docker, where need.sh can't help:
#
#   docker.sh build        builds .bin/nudge, without Go on this machine
#   docker.sh dev ARG…     runs `.bin/nudge dev ARG…` on a Postgres in a container, which ends with it
#   docker.sh test ARG…    runs `go test ARG…` in a container, on this checkout
#
# What is made and fetched is kept in volumes named nudge-…, so that the second time is quick. Nothing in
# the checkout gets another owner.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

go_version=$(sed -nE 's/^go ([0-9]+\.[0-9]+).*/\1/p' go.mod)
uid=$(id -u)

# inside ARG…: docker run in an image that tooled has built, as the user who asks, with the checkout. Labels
# are off, for under SELinux a container can't read its user's files otherwise.
inside() {
  docker run --rm --init --shm-size 1g --security-opt label=disable --user "$uid" --volume "$PWD:/src" --workdir /src \
    --volume "nudge-cache-$uid:/cache" --env GOMODCACHE=/cache/mod --env GOCACHE=/cache/build --env GOFLAGS=-buildvcs=false --env GOPROXY "$@"
}

# tooled STAGE: builds a stage of tools.Dockerfile; once built, that takes a second.
tooled() {
  docker build --quiet --target "$1" --tag "nudge-$1" --build-arg "GO=$go_version" --build-arg "UID=$uid" \
    --file internal/setup/tools.Dockerfile internal/setup >/dev/null || die "the image of tools.Dockerfile can't be built"
}

build() {
  say 'building with Docker instead'
  tooled go
  mkdir -p .bin
  inside --env CGO_ENABLED=0 --env GOOS="$(uname -s | tr '[:upper:]' '[:lower:]')" nudge-go go build -o .bin/nudge ./server
}

run_tests() {
  say "testing in a container of golang:$go_version-bookworm instead (the first time, that takes some minutes)"
  tooled test
  inside --env NUDGE_LONG --env NUDGE_TEST_LOG nudge-test go test "$@"
}

listens() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The demo's Postgres trusts loopback, as the private one does. It has the same port inside and outside, so that
# one psql line is good for both.
name=nudge-demo
dev() {
  local volume=$name port=5432 arg args=()
  docker container inspect "$name" >/dev/null 2>&1 &&
    die "the container $name is there already: stop the other make run, or end it with docker rm -f $name"
  for arg in "$@"; do
    case $arg in
      --fresh) docker volume rm "$volume" >/dev/null 2>&1 || true ;;
      --ephemeral) volume= ;; # an anonymous volume goes with its container
      *) args+=("$arg") ;;
    esac
  done
  while listens "$port"; do port=$((port + 1)); done
  say "Postgres runs in a container instead: $name, on port $port"
  docker run --rm --detach --name "$name" --publish "127.0.0.1:$port:$port" --shm-size 256m \
    --volume "${volume:+$volume:}/var/lib/postgresql/data" \
    --env POSTGRES_USER=demo --env POSTGRES_DB=demo --env POSTGRES_HOST_AUTH_METHOD=trust \
    postgres:17 postgres -c port="$port" -c wal_level=logical -c max_slot_wal_keep_size=4GB >/dev/null
  child=
  trap 'docker stop "$name" >/dev/null 2>&1 || true' EXIT
  trap '[ -n "$child" ] || exit 130' INT # which the terminal sends to the child too, and two end it at once
  trap '[ -n "$child" ] || exit 143; kill -TERM "$child"' TERM
  local tries=0 # over TCP: the server that only fills a new volume has none
  until docker exec "$name" pg_isready --quiet -h 127.0.0.1 -p "$port" -U demo; do
    tries=$((tries + 1))
    [ "$tries" -le 120 ] || { docker logs "$name" >&2; die "Postgres did not start within a minute"; }
    sleep 0.5
  done
  if ! command -v psql >/dev/null; then
    printf '#!/bin/sh\nexec docker exec -i %s psql "$@"\n' "$name" >.bin/psql
    chmod +x .bin/psql
    args=(--psql .bin/psql ${args[@]+"${args[@]}"})
  fi
  .bin/nudge dev --dsn "postgres://demo@127.0.0.1:$port/demo" ${args[@]+"${args[@]}"} &
  child=$!
  local status=0
  wait "$child" || status=$?
  if kill -0 "$child" 2>/dev/null; then wait "$child" && status=0 || status=$?; fi # a signal ended the first wait
  return "$status"
}

docker info >/dev/null 2>&1 || die 'nor does Docker help: docker info fails'
case ${1:-} in
  build) build ;;
  dev) shift; dev "$@" ;;
  test) shift; run_tests "$@" ;;
  *) die 'docker.sh build|dev|test' ;;
esac
