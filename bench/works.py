"""What is measured: works, each a list of jobs. A job is one process of each side; a test in it becomes one cell."""

from dataclasses import dataclass

# Shapes and types of the model files, as `undine synth` takes them.
SHAPES = {"350m": "LFM2-350M", "1.2b": "LFM2-1.2B", "8b-a1b": "LFM2-8B-A1B"}


@dataclass(frozen=True)
class Job:
    """Arguments for one model, the same for `undine bench` and peer.py."""

    model: str
    n_prompt: tuple = (0,)
    n_gen: tuple = (0,)
    depth: tuple = (0,)
    batch: tuple = (1,)

    def arguments(self):
        lists = {"-p": self.n_prompt, "-n": self.n_gen, "-d": self.depth, "-B": self.batch}
        return [word for flag, values in lists.items() for word in (flag, ",".join(map(str, values)))]

    def tests(self):
        """Names of the tests, as both sides print them."""
        at = [f" @ d{depth}" if depth else "" for depth in self.depth]
        together = [f" x{batch}" if batch > 1 else "" for batch in self.batch]
        prompts = [f"pp{tokens}{depth}" for depth in at for tokens in self.n_prompt if tokens]
        return prompts + [f"tg{tokens}{batch}{depth}" for batch in together for depth in at for tokens in self.n_gen if tokens]


@dataclass(frozen=True)
class Work:
    """`measure` is "speed" (tokens per second), "start" (seconds) or "memory" (bytes). Of speeds more is better."""

    title: str
    jobs: tuple
    measure: str = "speed"
    # Settings of the peer, each a name and its arguments; the best of them counts.
    settings: tuple = (("default", ()), ("no repack", ("--no-repack",)))


# At depth the weights are a small part of what is read, so repacking is left at its default.
WITH_FLASH_ATTENTION = tuple(
    (f"default, {flash}", ("--flash-attention", state)) for flash, state in (("plain attention", "off"), ("flash attention", "on"))
)
NO_REPACK = (("no repack", ("--no-repack",)),)


def of(shapes, types):
    return [f"{shape}-{kind}" for shape in shapes for kind in types]


FULL = {
    "decode": Work(
        "Decode, one sequence",
        tuple(
            Job(model, n_gen=(32,))
            for model in of(["350m"], ["q4_0", "q4_k_m", "q8_0", "bf16", "f16"])
            + of(["1.2b", "8b-a1b"], ["q4_0", "q4_k_m", "q8_0"])
        ),
    ),
    "prefill": Work(
        "Prefill",
        tuple(
            Job(model, n_prompt=(512, 4096))
            for model in of(["1.2b"], ["q4_0", "q4_k_m", "q6_k", "q8_0"]) + of(["350m"], ["bf16", "f16"])
        ),
    ),
    "moe": Work("Prefill, mixture of experts", (Job("8b-a1b-q4_k_m", n_prompt=(512,)),)),
    "batch": Work(
        "Decode, several sequences together",
        tuple(Job(model, n_gen=(16,), batch=(4, 8, 16, 32)) for model in ("1.2b-q4_0", "1.2b-q4_k_m", "8b-a1b-q4_k_m")),
    ),
    "depth": Work(
        "Decode after a long context",
        # A job per depth: filling a long context takes the peer minutes, and a job's cells are kept when it ends.
        tuple(Job("350m-q4_0", n_gen=(8,), depth=(depth,)) for depth in (4096, 16384, 32768))
        + tuple(Job("1.2b-q4_0", n_gen=(8,), depth=(depth,)) for depth in (4096, 16384, 32768)),
        settings=WITH_FLASH_ATTENTION,
    ),
    "start": Work("Start to first token", (Job("1.2b-q4_k_m"), Job("8b-a1b-q4_k_m")), measure="start"),
    "memory": Work(
        "Peak resident memory",
        tuple(
            Job(model, n_prompt=(512,), n_gen=(16,)) for model in of(["1.2b"], ["q4_0", "q4_k_m", "q8_0"]) + ["8b-a1b-q4_k_m"]
        ),
        measure="memory",
        settings=NO_REPACK,
    ),
}

# Every kind of cell on the smallest model: a few minutes, to see that everything works.
SMALL = {
    "decode": Work("Decode, one sequence", (Job("350m-q4_0", n_gen=(32,)),)),
    "prefill": Work("Prefill", (Job("350m-q4_0", n_prompt=(128, 512)),)),
    "batch": Work("Decode, several sequences together", (Job("350m-q4_0", n_gen=(16,), batch=(4, 8)),)),
    "depth": Work(
        "Decode after a long context", (Job("350m-q4_0", n_gen=(16,), depth=(512, 1024)),), settings=WITH_FLASH_ATTENTION
    ),
    "start": Work("Start to first token", (Job("350m-q4_0"),), measure="start"),
    "memory": Work(
        "Peak resident memory", (Job("350m-q4_0", n_prompt=(512,), n_gen=(16,)),), measure="memory", settings=NO_REPACK
    ),
}
