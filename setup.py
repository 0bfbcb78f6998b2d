"""Builds the optional CPU kernels; everything else about the package is in pyproject.toml.

One library an instruction set, all from the same sources: the fitting one is chosen when the process starts. They are plain
shared libraries without Python or torch headers. Where there is no compiler the build goes on without them, and torch's operators
serve.
"""

from __future__ import annotations

import copy
import os
import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "kernels/cpu/native"
PACKAGE = "headway.kernels.cpu.native"
# Reassociation lets sums be vectorised; NaN and infinity keep their meaning. Python's own flags ask for debug information, which takes a
# fifth of the compiler's time and makes the libraries ten times as large.
FLAGS = ["-O3", "-g0", "-std=c++20", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"]
HEADERS = ("common", "decode", "decode_tasks", "first_maximum", "grouped", "grouped_lora", "pages", "rows", "vectors", "wide")
IS_X86 = platform.machine() in ("x86_64", "AMD64")
X86_VARIANTS = {
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "avx512_vnni": ["-march=x86-64-v4", "-mavx512vnni"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
}
VARIANTS = {"baseline": []} | (X86_VARIANTS if IS_X86 else {})


class BuildApart(build_ext):
    """Each library in a folder of its own: all are made of the same sources, and two at a time would take each other's objects."""

    def build_extension(self, ext: Extension) -> None:
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name.rpartition(".")[2])
        build_ext.build_extension(own, ext)


setup(
    cmdclass={"build_ext": BuildApart},
    # Two at a time: a compiler takes up to 0.8 GiB, and one that is killed for memory leaves an installation without its kernels.
    options={"build_ext": {"parallel": min(os.cpu_count() or 1, 2)}},
    ext_modules=[
        # -fopenmp only when compiling: at run time the kernels use the thread pool of the OpenMP library that torch brings.
        Extension(
            f"{PACKAGE}._{name}",
            [
                f"{FOLDER}/{source}.cpp"
                for source in ("decoder_layer", "dense", "grouped", "grouped_lora", "kernels", "lora", "prefill", "quantize", "sampling")
            ],
            depends=[f"{FOLDER}/{header}.h" for header in HEADERS],
            extra_compile_args=[*FLAGS, *flags],
            language="c++",
            optional=True,
        )
        for name, flags in VARIANTS.items()
    ],
)
