"""Appends records of the named types to quant_golden.bin: random blocks and what the `gguf` package decodes them to.

    pip install gguf && python quant_golden.py IQ2_XS IQ2_S
"""

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

FILE = Path(__file__).with_name("quant_golden.bin")
# Where the f16 scale is. IQ1_M keeps it in the top nibbles of its last eight bytes, FP4 has bytes that may be anything.
SCALE_AT = {"IQ2_XS": 0, "IQ2_S": 0, "IQ3_XXS": 0, "IQ1_S": 0, "TQ1_0": 52, "TQ2_0": 64}
VALUES = 1024


def blocks(name, rng):
    elems, size = gguf.GGML_QUANT_SIZES[T[name]]
    data = rng.integers(0, 256, (VALUES // elems, size), dtype=np.uint8)
    for number, block in enumerate(data):
        # The second block's scale is subnormal.
        exponent = 0 if number == 1 else int(rng.integers(1, 31))
        bits = int(rng.integers(0, 2)) << 15 | exponent << 10 | int(rng.integers(1, 1024))
        if name in SCALE_AT:
            at = SCALE_AT[name]
            block[at : at + 2] = np.frombuffer(struct.pack("<H", bits), np.uint8)
        elif name == "IQ1_M":
            for j in range(4):
                block[49 + 2 * j] = block[49 + 2 * j] & 15 | (bits >> 4 * j & 15) << 4
        elif name == "MXFP4" and number < 4:
            block[0] = [0, 1, 2, 251][number]
        elif name == "MXFP4":
            # Twelve times the scale is still finite.
            block[0] = min(block[0], 251)
        elif name == "NVFP4" and number == 1:
            block[:4] = [0, 1, 7, 0x7F]
    return data


for name in sys.argv[1:]:
    data = blocks(name, np.random.default_rng(int(T[name])))
    values = gguf.quants.dequantize(data, T[name]).astype("<f4")
    assert np.isfinite(values).all(), name
    with FILE.open("ab") as file:
        file.write(struct.pack("<II", int(T[name]), len(data)) + data.tobytes() + values.tobytes())
