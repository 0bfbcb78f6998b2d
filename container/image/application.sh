#!/usr/bin/env bash
# Builds our wheel and lays out /application: the package, the command, the bill of materials and the list of licences.
set -euo pipefail
image=/mnt/container/image
site=$(echo /opt/headway/lib/python3.*/site-packages)
mkdir /build
tar -C /mnt --exclude=./wheels -c . | tar -C /build -x  # a build writes into its source tree
/opt/tools/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /dist /build
/opt/headway/bin/pip install -q --no-deps --no-compile --no-index /dist/headway-*.whl
# unchecked-hash: a read-only image can't write byte code, and times of files must not matter. One process and one seed: the order
# of sets and of interned texts would otherwise differ from build to build.
PYTHONHASHSEED=0 /opt/headway/bin/python -m compileall -q -f --invalidation-mode unchecked-hash "$site/headway"
mkdir -p "/application$site" /application/opt/headway/bin /application/usr/local/bin /application/usr/share/headway
cp -a "$site"/headway "$site"/headway-*.dist-info "/application$site/"
cp -a /opt/headway/bin/headway /application/opt/headway/bin/
ln -s /opt/headway/bin/headway /application/usr/local/bin/headway
/opt/tools/bin/python "$image/inventory.py" --packages "$site" --dpkg-status /dpkg-status --out /application/usr/share/headway
rm -rf /build
