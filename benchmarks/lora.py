"""What adapters cost a loaded engine on a CPU: `python benchmarks/lora.py`.

The engine alone, in this process: requests that decode together, without adapters and with many mixed, in turn, so that the machine's
noise hits both. Seconds are this process's CPU time, all threads together, which waiting for other processes does not change. Prints
each round and the median of the rounds' ratios; exit status 1 below --least.
"""

from __future__ import annotations
