#!/usr/bin/env bash
# Installs the locked Python packages into /opt/headway. Wheels in the build context's wheels/ folder come first, so that the image
# builds where only some packages can be had from an index. Reads VARIANT and TORCH_INDEX_URL.
set -euo pipefail
image=/src/container/image
pip=(/opt/headway/bin/pip)
find_links=()
if compgen -G '/src/wheels/*.whl' >/dev/null; then find_links=(--find-links /src/wheels); fi

# torch alone: its CPU build has an index of its own, and nothing else may come from there.
torch=$(grep '^torch==' "$image/lock.txt")
if compgen -G '/src/wheels/torch-*.whl' >/dev/null; then
    "${pip[@]}" install -q --no-deps --no-compile /src/wheels/torch-*.whl
else
    if [ "$TORCH_INDEX_URL" = auto ]; then
        case "$VARIANT" in cpu) TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu ;; cuda) TORCH_INDEX_URL= ;; esac
    fi
    "${pip[@]}" install -q --no-deps --no-compile ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$torch"
fi
# The lock has every package of the CPU variant; what the CUDA build of torch needs beside them, torch itself names exactly.
"${pip[@]}" install -q --no-compile "${find_links[@]}" -r "$image/lock.txt"
"${pip[@]}" check

# Parts that no server runs: C++ headers, tests of other projects. 90 MB of torch alone.
site=$(echo /opt/headway/lib/python3.*/site-packages)
rm -rf "$site"/torch/include "$site"/torch/test "$site"/torch/share/cmake
find "$site"/torch/bin -type f ! -name torch_shm_manager -delete  # torch looks for that one when it is imported
find "$site" -depth -type d \( -name tests -o -name test \) \
    \( -path '*/numpy/*' -o -path '*/sympy/*' -o -path '*/networkx/*' -o -path '*/mpmath/*' -o -path '*/pandas/*' \) -exec rm -rf {} +
find "$site" -name '*.a' -delete
# unchecked-hash: a read-only image can't write byte code, and times of files must not matter. One process and one seed: the
# order of sets and of interned texts would otherwise differ from build to build.
PYTHONHASHSEED=0 /opt/headway/bin/python -m compileall -q --invalidation-mode unchecked-hash "$site" >/dev/null || true
