#!/usr/bin/env bash
# Writes container/image/lock.txt anew: the newest versions that pyproject.toml allows, torch as constraints.txt pins it. `make lock`.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?the Python to resolve for}
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$python" -m pip install -q --dry-run --ignore-installed --report "$report" -c constraints.txt '.[kv,otel,ray,router]'  # what options of the server ask for
"$python" - "$report" > container/image/lock.txt <<'PYTHON'
import json, sys
print("# Made by `make lock`: what the image installs.")
found = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in json.load(open(sys.argv[1]))["install"]}
for name in sorted(found.keys() - {"headway"}):
    print(f"{name}=={found[name].partition('+')[0]}")
PYTHON
