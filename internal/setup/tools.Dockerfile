# What docker.sh builds and tests in. Sources are not part of it: they are mounted.
ARG GO
FROM golang:${GO}-bookworm AS go
ARG UID
# A user with a name, which initdb insists on, and a place for what it fetches and builds.
RUN getent passwd "$UID" || useradd --uid "$UID" --create-home nudge && install -d -o "$UID" /cache

FROM go AS test
COPY need.sh /setup/internal/setup/
RUN /setup/internal/setup/need.sh postgres chromium
