"""llama.cpp's quantizer, through llama-cpp-python's low-level API.

    quality_peer.py IN.gguf OUT.gguf TYPE [IMATRIX.gguf]

TYPE is the name of a mix, such as Q4_K_M. The importance matrix is read with the gguf package: mean squares per column, for
experts one after the other, as llama-quantize reads it.
"""

import ctypes
import sys

import llama_cpp.llama_cpp as llama
import numpy as np
from gguf import GGUFReader


def file_type(name):
    return getattr(llama, "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}")


def importance(path):
    """Name -> mean squares, `matrices x columns`; 1 where nothing was seen."""
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    means = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            name = name.removesuffix(".in_sum2")
            counts = tensors[f"{name}.counts"].reshape(-1, 1)
            sums = sums.reshape(len(counts), -1)
            means[name] = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32).ravel()
    return means


def main():
    source, out, name, *rest = sys.argv[1:]
    params = llama.llama_model_quantize_default_params()
    params.ftype = file_type(name)
    params.nthread = 0
    params.allow_requantize = True
    kept = []
    if rest:
        for tensor, values in importance(rest[0]).items():
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            kept.append((values, llama.llama_model_imatrix_data(tensor.encode(), data, len(values))))
        entries = [entry for _, entry in kept]
        # An entry without a name ends the list.
        entries.append(llama.llama_model_imatrix_data(None, None, 0))
        params.imatrix = (llama.llama_model_imatrix_data * len(entries))(*entries)
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    if llama.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp does not quantize {source} to {name}")


main()
