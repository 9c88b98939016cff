#!/usr/bin/env python3
"""The errors of ggml's own quantizers on the data of `quantize/src/tests.rs`, as the constants there.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xzf node-llama-cpp-linux-x64-3.22.1.tgz
    python3 reference.py package/bins/linux-x64/libggml-base.so

needs numpy and gguf (0.19.0). Quantized by the library (ggml 0.25.1), dequantized by the `gguf` package.
"""

import ctypes
import sys

import gguf
import numpy as np

ROWS, COLS = 64, 512
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def data() -> np.ndarray:
    """Sums of four bytes of a 64-bit congruential generator: near normal, and exact in f32 anywhere."""
    state, values = 1, np.empty(ROWS * COLS, dtype=np.float32)
    for i in range(values.size):
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        value = sum((state >> 32).to_bytes(4, "little")) - 510
        values[i] = value / 2.0**12
    # Rows of different magnitude, one with a mean, one with outliers.
    values = values.reshape(ROWS, COLS)
    values *= 2.0 ** (np.arange(ROWS) % 4).astype(np.float32)[:, None]
    values[1] += 0.5
    values[2, ::100] *= 8.0
    return values


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    values = data()
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros(ROWS * COLS // block * size, dtype=np.uint8)
        library.ggml_quantize_chunk(
            ctypes.c_int(kind.value),
            values.ctypes.data_as(ctypes.c_void_p),
            out.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(ROWS),
            ctypes.c_int64(COLS),
            None,
        )
        back = gguf.quants.dequantize(out.reshape(ROWS, -1), kind).reshape(ROWS, COLS)
        error = np.sqrt(np.mean((back.astype(np.float64) - values) ** 2))
        crc = 0xCBF29CE484222325
        for byte in out.tobytes():
            crc = (crc ^ byte) * 0x100000001B3 & (1 << 64) - 1
        print(f"    (QType::{name.replace('_K', 'K')}, {error:.6e}, 0x{crc:016x}),")


if __name__ == "__main__":
    main()
