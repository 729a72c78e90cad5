#!/usr/bin/env bash
# Installs what is missing, and only that, and says so: need.sh go|postgres|chromium|wrk|golangci …
# Packages come from apt or brew. Exits non-zero, saying what to do, where it can't help.
set -euo pipefail
cd "$(dirname "$0")/../.."

lint_version=v2.15.0

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "needs root for: $*"; fi; }

updated=
apt_install() {
  if [ -z "$updated" ]; then as_root apt-get update -qq >/dev/null || die "apt-get update failed"; updated=1; fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || die "apt-get install $* failed"
}

# install NAME APT-PACKAGE BREW-FORMULA
install() {
  if command -v apt-get >/dev/null; then
    say "$1 is missing: installing $2 with apt"
    apt_install "$2"
  elif command -v brew >/dev/null; then
    say "$1 is missing: installing $3 with brew"
    brew install --quiet "$3" >/dev/null
  else
    return 1
  fi
}

postgres_bin() {
  local d
  for d in "${NUDGE_PG_BIN:-}" "$(dirname "$(readlink -f "$(command -v postgres || echo /nowhere/x)")")" \
    /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if [ -n "$d" ] && [ -x "$d/initdb" ] && [ -x "$d/postgres" ]; then echo "$d"; return; fi
  done
  return 1
}

need_go() {
  command -v go >/dev/null || die "Go is missing: install $(sed -n 's/^go /Go /p' go.mod) or newer from https://go.dev/dl"
  go list -m >/dev/null 2>&1 || go mod download || die "go.mod can't be read by $(go version): install $(sed -n 's/^go /Go /p' go.mod) or newer"
}

need_postgres() {
  if postgres_bin >/dev/null; then return; fi
  if command -v apt-get >/dev/null; then
    # Debian's package would start a server of its own; we only want the programs.
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/nudge.conf >/dev/null
  fi
  install Postgres postgresql postgresql@17 || die "no Postgres programs here, and neither apt nor brew: install Postgres 14 or newer, or Docker, or set NUDGE_PG_BIN to the folder with initdb"
  postgres_bin >/dev/null || die "Postgres was installed, but initdb is nowhere to be found: set NUDGE_PG_BIN"
}

need_chromium() {
  local b
  for b in chromium chromium-browser google-chrome headless-shell "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    if command -v "$b" >/dev/null; then return; fi
  done
  if [ "$(uname)" = Darwin ]; then say "Chromium is missing: installing it with brew"; brew install --quiet --cask chromium >/dev/null; return; fi
  install Chromium chromium chromium || die "install Chromium, for the tests that drive the page"
}

need_wrk() {
  if command -v wrk >/dev/null; then return; fi
  install wrk wrk wrk || die "install wrk, which makes the load of bench-pull"
}

need_golangci() {
  if [ -x .bin/golangci-lint ] && .bin/golangci-lint version 2>/dev/null | grep -q "${lint_version#v}"; then return; fi
  say "golangci-lint $lint_version is missing: building it into .bin (some minutes)"
  GOBIN="$PWD/.bin" go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$lint_version"
}

for what in "$@"; do "need_$what"; done
