#!/usr/bin/env bash
# Installs the locked Python packages into /opt/headway. Wheels in /media (the build context's wheels/ folder) come first, so that the
# image builds where only some packages can be had from an index. /mnt is this folder. Reads VARIANT and TORCH_INDEX_URL.
set -euo pipefail
pip=(/opt/headway/bin/pip)
find_links=()
if compgen -G '/media/*.whl' >/dev/null; then find_links=(--find-links /media); fi

# torch alone: its CPU build has an index of its own, and nothing else may come from there.
torch=$(grep '^torch==' /mnt/lock.txt)
version=${torch#torch==} # a wheel of another version would only be replaced again, by whatever the index has
case "$VARIANT" in
cpu) index=https://download.pytorch.org/whl/cpu wheel=$(find /media -name "torch-$version+cpu-*.whl" 2>/dev/null | head -1) ;;
cuda) index='' wheel=$(find /media -name "torch-$version[+-]*.whl" ! -name '*+cpu-*' 2>/dev/null | head -1) ;;
esac
[ "$TORCH_INDEX_URL" = auto ] || index=$TORCH_INDEX_URL
"${pip[@]}" install -q --no-deps --no-compile ${index:+--index-url "$index"} "${wheel:-$torch}"
# The lock has every package of the CPU variant; what the CUDA build of torch needs beside them, torch itself names exactly.
"${pip[@]}" install -q --no-compile "${find_links[@]}" -r /mnt/lock.txt
"${pip[@]}" check

# Parts that no server runs: C++ headers, tests of other projects. 90 MB of torch alone.
site=$(echo /opt/headway/lib/python3.*/site-packages)
rm -rf "$site"/torch/include "$site"/torch/test "$site"/torch/share/cmake
find "$site"/torch/bin -type f ! -name torch_shm_manager -delete  # torch looks for that one when it is imported
find "$site" -depth -type d \( -name tests -o -name test \) \
    \( -path '*/numpy/*' -o -path '*/sympy/*' -o -path '*/networkx/*' -o -path '*/mpmath/*' -o -path '*/pandas/*' \) -exec rm -rf {} +
find "$site" -name '*.a' -delete
# 150 MB of what comes along with the extras: kernels of expert parallelism on GPUs that we don't use, Ray for Java, its learning library.
rm -rf "$site"/nixl_ep_cu12 "$site"/ray/jars "$site"/ray/rllib
# As in application.sh.
PYTHONHASHSEED=0 /opt/headway/bin/python -m compileall -q -f --invalidation-mode unchecked-hash "$site" >/dev/null || true
