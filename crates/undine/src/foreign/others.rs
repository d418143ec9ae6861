//! The flags of Ollama, of SGLang's server and of convert_hf_to_gguf.py, and vLLM's on `run`.

use super::Meaning::{Always, Judged, Out, Own, Read, Words};
use super::Row;
use super::Takes::{Nothing, OneOf, Value};
use super::Verdict::{NoEffect, Only, Refused};
use super::flags::{NO_EMBEDDINGS, ONE_MACHINE, UNCONSTRAINED, row};
use super::values;
use super::vllm::REQUESTS_LOGGED;

const RUN: &[&str] = &["run"];
const SERVE: &[&str] = &["serve"];
const SHOW: &[&str] = &["show"];
const CONVERT: &[&str] = &["convert"];

const NO_DAEMON: &str =
    "no program stays in the background; a model leaves memory with the command that runs it";
const OWN_MEMORY: &str = "memory is taken as --kv-cache-memory-bytes says";

/// All of them.
pub(super) const FLAGS: &[Row] = &[
    // Ollama.
    row(RUN, "--nowordwrap", Nothing, Words(&["--no-word-wrap"])),
    row(RUN, "--hidethinking", Nothing, Words(&["--hide-thinking"])),
    row(RUN, "--think", OneOf(&["true", "false", "high", "medium", "low", "on", "off"]), Read(values::think)),
    row(RUN, "--format", Value, Judged(Refused(UNCONSTRAINED))),
    row(RUN, "--keepalive --keep-alive", Value, Judged(NoEffect(NO_DAEMON))),
    row(
        &["run", "pull"],
        "--insecure",
        Nothing,
        Judged(Refused("HF_ENDPOINT names another hub, http:// included")),
    ),
    row(RUN, "--dimensions", Value, Judged(Refused(NO_EMBEDDINGS))),
    row(
        RUN,
        "--truncate --experimental --experimental-yolo",
        Nothing,
        Judged(NoEffect("it belongs to embeddings and agents of Ollama")),
    ),
    row(SHOW, "-v --verbose", Nothing, Judged(NoEffect("`undine inspect --tensors` lists every tensor"))),
    row(
        SHOW,
        "--modelfile --parameters --system --template --license",
        Nothing,
        Judged(NoEffect("all there is to know is shown; there are no Modelfiles")),
    ),
    // vLLM on `run`.
    row(
        RUN,
        "--trust-remote-code --enforce-eager",
        Nothing,
        Judged(NoEffect("a checkpoint's code is never run")),
    ),
    row(RUN, "--tensor-parallel-size -tp", Value, Judged(Only(&["1"], ONE_MACHINE))),
    // SGLang.
    row(SERVE, "--disable-radix-cache", Nothing, Words(&["--no-enable-prefix-caching"])),
    row(SERVE, "--max-running-requests", Value, Own("--max-num-seqs")),
    row(SERVE, "--chunked-prefill-size", Value, Read(values::chunk)),
    row(SERVE, "--tp-size --tp --dp-size --dp --pp-size --ep-size", Value, Judged(Only(&["1"], ONE_MACHINE))),
    row(SERVE, "--mem-fraction-static --max-total-tokens", Value, Judged(NoEffect(OWN_MEMORY))),
    row(
        SERVE,
        "--max-prefill-tokens",
        Value,
        Judged(NoEffect("--max-num-batched-tokens is the limit of a step")),
    ),
    row(
        SERVE,
        "--schedule-policy --schedule-conservativeness --sampling-backend",
        Value,
        Judged(NoEffect("there is one way to schedule and to sample")),
    ),
    row(SERVE, "--grammar-backend", Value, Judged(NoEffect("llguidance is the only grammar engine"))),
    row(SERVE, "--enable-metrics --enable-cache-report", Nothing, Always),
    row(SERVE, "--log-requests", Nothing, Judged(NoEffect(REQUESTS_LOGGED))),
    row(SERVE, "--disable-cuda-graph --enable-torch-compile", Nothing, Judged(NoEffect("there is no GPU"))),
    row(SERVE, "--random-seed", Value, Own("--seed")),
    // convert_hf_to_gguf.py.
    row(CONVERT, "--outfile", Value, Out),
    row(CONVERT, "--outtype", Value, Read(values::float_type)),
    row(CONVERT, "--use-temp-file --no-lazy --verbose", Nothing, Always),
    row(
        CONVERT,
        "--vocab-only --bigendian --split-max-size --split-max-tensors",
        Nothing,
        Judged(Refused("`undine convert` writes one whole file, little-endian")),
    ),
    row(CONVERT, "--remote", Nothing, Always),
    row(
        CONVERT,
        "--dry-run",
        Nothing,
        Judged(Refused("`undine inspect IN --tensors` shows what there is to write")),
    ),
];
