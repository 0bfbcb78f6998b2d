#!/usr/bin/env bash
# tree.sh SOURCE TARGET PATH: copies SOURCE/PATH to TARGET/PATH without what only a build needs, and with no time after
# SOURCE_DATE_EPOCH. A tree of its own, since the builder touches directories of the root it runs in behind our back.
set -euo pipefail
source=$1 target=$2 path=$3
mkdir -p "$target"
tar -C "$source" --one-file-system -c \
    --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* --exclude=./run/* --exclude=./tmp/* --exclude=./mnt/* \
    --exclude=./var/lib/apt/lists/* --exclude=./var/cache/apt/* --exclude=./var/cache/debconf/*-old \
    --exclude=./var/cache/ldconfig/aux-cache --exclude=./var/lib/dpkg/*-old --exclude=./var/log/* --exclude=./root/.cache \
    --exclude=./etc/hosts --exclude=./etc/resolv.conf \
    "$path" | tar -C "$target" -xp
find "$target" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch --no-dereference --date "@$SOURCE_DATE_EPOCH"
