"""A model opened by llama-cpp-python, for the scripts that compare with llama.cpp."""

import ctypes

import llama_cpp as llama
import numpy as np

CONTEXT = 512
THREADS = 2


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(_level, _text, _data):
    pass


class Opened:
    """A model on the CPU with a context of `CONTEXT` tokens."""

    def __init__(self, path):
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.size = llama.llama_vocab_n_tokens(self.vocab)
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_threads = CONTEXT, THREADS
        self.context = llama.llama_init_from_model(self.model, options)

    def tokens(self, text):
        """The text as token ids; the text of special tokens stands for them."""
        buffer = (llama.llama_token * CONTEXT)()
        count = llama.llama_tokenize(self.vocab, text.encode(), len(text.encode()), buffer, CONTEXT, False, True)
        return list(buffer[:count])

    def decode(self, tokens):
        """Log-probabilities of what follows these tokens and all before."""
        batch = (llama.llama_token * len(tokens))(*tokens)
        assert llama.llama_decode(self.context, llama.llama_batch_get_one(batch, len(tokens))) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(self.context, -1), shape=(self.size,)).astype(np.float64)
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    def close(self):
        llama.llama_free(self.context)
        llama.llama_model_free(self.model)


def start():
    """Once, before a model is opened."""
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
