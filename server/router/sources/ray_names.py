"""A process that writes, line by line, which named actors a namespace of a Ray cluster has: `python -m ... NAMESPACE SECONDS`.

A process of its own, since Ray's core ends the one that it lives in when its node or the cluster's head is gone.
"""

from __future__ import annotations

import json
import sys
import time
from typing import NoReturn


def main(namespace: str, pause_s: float) -> NoReturn:
    """A line is a list of names. Ends when nobody reads any more. Raises what Ray raises."""
    import ray

    ray.init(address="auto", namespace=namespace, log_to_driver=False)
    while True:
        sys.stdout.write(json.dumps(ray.util.list_named_actors()) + "\n")
        sys.stdout.flush()
        time.sleep(pause_s)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
