#!/usr/bin/env bash
# Make localhost/gateway-base:bookworm, a base image for machines that reach Debian's packages and no
# image registry: `make images BASE=local`. Once; podman keeps it. Needs root and debootstrap.
set -euo pipefail
name=localhost/gateway-base:bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

if podman image exists "$name"; then exit 0; fi
command -v debootstrap >/dev/null || {
  echo "debootstrap is missing; install it with: apt-get install debootstrap" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root: run this with sudo" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
  bookworm "$folder/root" "$mirror" >"$folder/log" 2>&1 || { tail -20 "$folder/log" >&2; exit 1; }
# What slim images leave out, too.
rm -rf "$folder"/root/{var/lib/apt/lists,var/cache/apt,usr/share/doc,usr/share/man,usr/share/locale}/*
tar -C "$folder/root" --one-file-system -c . \
  | podman import --quiet --change ENV=PATH=/usr/local/bin:/usr/bin:/bin --change CMD=python3 - "$name" >/dev/null
