//! Flags of `vllm serve` that have no counterpart: a table of what each one means here.
//!
//! Unlike those of other programs they may stand in the file of `--config`, so the parser knows them, hidden.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::Verdict::{self, NoEffect, Only, Refused};

/// What a flag is followed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// Nothing; `--no-NAME` exists too.
    Nothing,
    /// One value.
    Value,
}
use Takes::{Nothing, Value};

const ONE_PROCESS: &str = "one process serves one model on this machine's CPU";
const NO_GPU: &str = "there is no GPU to do it on";
const NO_LORA: &str = "adapters are not applied at run time; merge them into the checkpoint";
const OWN_FILES: &str = "a model's files are read as they are, and checked when they are fetched";
const OWN_MEMORY: &str = "prepared images are kept in the server's own memory; see --mm-processor-cache-gb";
const NO_PLUGINS: &str = "code cannot be loaded into the server";
const NO_CLUSTER: &str = "caches are not shared between servers";
const CONVOLUTIONS: &str = "states of short convolutions are always kept and cached exactly";
const LIMITS_FIXED: &str = "headers are limited to 100 and 64 KiB";
const LOG_FLAGS: &str = "see --log-level, --log-format and --disable-log-requests";
pub(super) const REQUESTS_LOGGED: &str =
    "requests are logged without their text, unless --disable-log-requests says no";
const NEVER_LOGGED: &str = "prompts and answers are never logged";
const LLGUIDANCE: &str = "llguidance is the only grammar engine";

/// Every flag that is not one of [`ServeArgs`](crate::args_serve::ServeArgs)' own.
const FLAGS: &[(&str, Takes, Verdict)] = &[
    // Model and files.
    ("runner", Value, Only(&["auto", "generate"], "models generate text")),
    ("convert", Value, Only(&["auto", "none"], "models generate text")),
    ("task", Value, Only(&["auto", "generate"], "models generate text")),
    ("tokenizer", Value, NoEffect("the checkpoint's own tokenizer is used")),
    ("tokenizer-mode", Value, NoEffect("there is one tokenizer implementation")),
    ("tokenizer-revision", Value, NoEffect(OWN_FILES)),
    ("code-revision", Value, NoEffect(OWN_FILES)),
    ("hf-config-path", Value, NoEffect(OWN_FILES)),
    ("config-format", Value, NoEffect(OWN_FILES)),
    (
        "load-format",
        Value,
        Only(&["auto", "hf", "safetensors", "gguf"], "a checkpoint says itself which format it has"),
    ),
    ("ignore-patterns", Value, NoEffect(OWN_FILES)),
    ("safetensors-load-strategy", Value, NoEffect(OWN_FILES)),
    ("model-loader-extra-config", Value, NoEffect(OWN_FILES)),
    ("use-tqdm-on-load", Nothing, NoEffect(OWN_FILES)),
    ("max-parallel-loading-workers", Value, NoEffect(OWN_FILES)),
    ("trust-remote-code", Nothing, NoEffect("a checkpoint's code is never run")),
    ("hf-overrides", Value, Refused("the checkpoint's configuration is used as it is; edit the file")),
    ("rope-scaling", Value, Refused("the checkpoint's configuration is used as it is; edit the file")),
    ("rope-theta", Value, Refused("the checkpoint's configuration is used as it is; edit the file")),
    ("quantization", Value, NoEffect("weights are computed with in the types of the file")),
    ("model-impl", Value, NoEffect("there is one implementation")),
    ("skip-tokenizer-init", Nothing, Refused("text needs the tokenizer; token ids are understood beside it")),
    ("enable-prompt-embeds", Nothing, Refused("prompts are text or token ids")),
    ("logits-processors", Value, Refused(NO_PLUGINS)),
    ("logits-processor-pattern", Value, Refused(NO_PLUGINS)),
    ("io-processor-plugin", Value, Refused(NO_PLUGINS)),
    ("pooler-config", Value, Refused("models generate text")),
    ("logprobs-mode", Value, Only(&["raw_logprobs"], "log-probabilities are the model's own")),
    ("enable-sleep-mode", Nothing, Refused("memory is given back when the server ends")),
    ("disable-sliding-window", Nothing, NoEffect("the model has none")),
    ("disable-cascade-attn", Nothing, NoEffect("attention is computed exactly either way")),
    ("attention-backend", Value, NoEffect("kernels are chosen by the CPU's instruction set")),
    ("override-attention-dtype", Value, NoEffect("see --kv-cache-dtype")),
    // Parallel and distributed.
    ("tensor-parallel-size", Value, Only(&["1"], ONE_PROCESS)),
    ("pipeline-parallel-size", Value, Only(&["1"], ONE_PROCESS)),
    ("data-parallel-size", Value, Only(&["1"], ONE_PROCESS)),
    ("data-parallel-size-local", Value, Only(&["1"], ONE_PROCESS)),
    ("decode-context-parallel-size", Value, Only(&["1"], ONE_PROCESS)),
    ("prefill-context-parallel-size", Value, Only(&["1"], ONE_PROCESS)),
    ("data-parallel-rank", Value, Refused(ONE_PROCESS)),
    ("data-parallel-start-rank", Value, Refused(ONE_PROCESS)),
    ("data-parallel-address", Value, Refused(ONE_PROCESS)),
    ("data-parallel-rpc-port", Value, Refused(ONE_PROCESS)),
    ("data-parallel-backend", Value, NoEffect(ONE_PROCESS)),
    ("data-parallel-hybrid-lb", Nothing, Refused(ONE_PROCESS)),
    ("data-parallel-external-lb", Nothing, Refused(ONE_PROCESS)),
    ("nnodes", Value, Only(&["1"], ONE_PROCESS)),
    ("node-rank", Value, Only(&["0"], ONE_PROCESS)),
    ("master-addr", Value, NoEffect(ONE_PROCESS)),
    ("master-port", Value, NoEffect(ONE_PROCESS)),
    ("distributed-executor-backend", Value, NoEffect(ONE_PROCESS)),
    ("api-server-count", Value, NoEffect(ONE_PROCESS)),
    ("disable-frontend-multiprocessing", Nothing, NoEffect(ONE_PROCESS)),
    ("headless", Nothing, Refused(ONE_PROCESS)),
    ("enable-expert-parallel", Nothing, NoEffect(ONE_PROCESS)),
    ("enable-eplb", Nothing, NoEffect(ONE_PROCESS)),
    ("eplb-config", Value, NoEffect(ONE_PROCESS)),
    ("expert-placement-strategy", Value, NoEffect(ONE_PROCESS)),
    ("all2all-backend", Value, NoEffect(ONE_PROCESS)),
    ("enable-dbo", Nothing, NoEffect(NO_GPU)),
    ("disable-custom-all-reduce", Nothing, NoEffect(NO_GPU)),
    ("ray-workers-use-nsight", Nothing, NoEffect(NO_GPU)),
    ("worker-cls", Value, Refused(NO_PLUGINS)),
    ("worker-extension-cls", Value, Refused(NO_PLUGINS)),
    // Cache and scheduler.
    ("block-size", Value, NoEffect("pages have a fixed size, and prefixes are found to the token")),
    ("num-gpu-blocks-override", Value, Refused("use --kv-cache-memory-bytes")),
    ("swap-space", Value, NoEffect("everything is in main memory")),
    ("cpu-offload-gb", Value, NoEffect("everything is in main memory")),
    ("kv-offloading-size", Value, NoEffect("everything is in main memory")),
    ("kv-offloading-backend", Value, NoEffect("everything is in main memory")),
    ("prefix-caching-hash-algo", Value, NoEffect("prefixes are compared, not hashed alone")),
    ("calculate-kv-scales", Nothing, NoEffect("scales of q8_0 are always computed")),
    ("kv-sharing-fast-prefill", Nothing, NoEffect("the model shares no keys and values between layers")),
    ("disable-hybrid-kv-cache-manager", Nothing, NoEffect(CONVOLUTIONS)),
    ("mamba-backend", Value, NoEffect(CONVOLUTIONS)),
    ("mamba-cache-mode", Value, NoEffect(CONVOLUTIONS)),
    ("mamba-cache-dtype", Value, NoEffect(CONVOLUTIONS)),
    ("mamba-ssm-cache-dtype", Value, NoEffect(CONVOLUTIONS)),
    ("mamba-block-size", Value, NoEffect(CONVOLUTIONS)),
    ("max-num-partial-prefills", Value, NoEffect("as many prompts at once as the step's budget allows")),
    ("max-long-partial-prefills", Value, NoEffect("as many prompts at once as the step's budget allows")),
    ("long-prefill-token-threshold", Value, NoEffect("every prompt is cut to the step's budget")),
    ("num-lookahead-slots", Value, NoEffect("nothing is speculated")),
    ("scheduler-cls", Value, Refused(NO_PLUGINS)),
    ("scheduler-delay-factor", Value, NoEffect("no step is delayed")),
    ("async-scheduling", Nothing, NoEffect("the backend says how many steps are in flight")),
    ("stream-interval", Value, NoEffect("every token is sent at once")),
    ("speculative-config", Value, Refused("there is no speculative decoding")),
    ("kv-transfer-config", Value, Refused(NO_CLUSTER)),
    ("kv-events-config", Value, Refused(NO_CLUSTER)),
    ("ec-transfer-config", Value, Refused(NO_CLUSTER)),
    ("weight-transfer-config", Value, Refused(NO_CLUSTER)),
    // Compilation.
    ("enforce-eager", Nothing, NoEffect(NO_GPU)),
    ("compilation-config", Value, NoEffect(NO_GPU)),
    ("optimization-level", Value, NoEffect(NO_GPU)),
    ("cudagraph-capture-sizes", Value, NoEffect(NO_GPU)),
    // Of earlier versions, and in many scripts that are still about.
    ("device", Value, NoEffect("everything is computed on the CPU")),
    ("max-seq-len-to-capture", Value, NoEffect(NO_GPU)),
    ("num-scheduler-steps", Value, NoEffect("the backend says how many steps are in flight")),
    ("preemption-mode", Value, NoEffect("what was preempted is found again through the prefix cache")),
    ("use-v2-block-manager", Nothing, NoEffect("there is one block manager")),
    ("max-cudagraph-capture-size", Value, NoEffect(NO_GPU)),
    ("moe-backend", Value, NoEffect("kernels are chosen by the CPU's instruction set")),
    ("additional-config", Value, NoEffect("there is nothing it could configure")),
    ("profiler-config", Value, NoEffect("profile the process with the tools of the system")),
    // Images, audio.
    ("enable-mm-embeds", Nothing, Refused("images are sent as images")),
    ("language-model-only", Nothing, NoEffect("use --limit-mm-per-prompt '{\"image\": 0}'")),
    ("media-io-kwargs", Value, NoEffect("images are decoded in one way")),
    ("mm-processor-cache-type", Value, NoEffect(OWN_MEMORY)),
    ("mm-shm-cache-max-object-size-mb", Value, NoEffect(OWN_MEMORY)),
    ("mm-encoder-tp-mode", Value, NoEffect(ONE_PROCESS)),
    ("mm-encoder-attn-backend", Value, NoEffect(NO_GPU)),
    ("disable-mm-preprocessor-cache", Nothing, NoEffect("use --mm-processor-cache-gb 0")),
    ("disable-chunked-mm-input", Nothing, NoEffect("images, like text, never hold up other answers")),
    ("interleave-mm-strings", Nothing, NoEffect("images always stand where their parts are")),
    ("skip-mm-profiling", Nothing, NoEffect("memory for images is bounded, not measured")),
    ("video-pruning-rate", Value, NoEffect("no model here sees videos")),
    // Adapters.
    ("enable-lora", Nothing, Refused(NO_LORA)),
    ("lora-modules", Value, Refused(NO_LORA)),
    ("max-loras", Value, Refused(NO_LORA)),
    ("max-lora-rank", Value, Refused(NO_LORA)),
    ("max-cpu-loras", Value, Refused(NO_LORA)),
    ("lora-dtype", Value, Refused(NO_LORA)),
    ("lora-extra-vocab-size", Value, Refused(NO_LORA)),
    ("lora-target-modules", Value, Refused(NO_LORA)),
    ("fully-sharded-loras", Nothing, Refused(NO_LORA)),
    ("default-mm-loras", Value, Refused(NO_LORA)),
    // Answers.
    ("guided-decoding-backend", Value, NoEffect(LLGUIDANCE)),
    ("guided-decoding-disable-fallback", Nothing, NoEffect(LLGUIDANCE)),
    ("guided-decoding-disable-any-whitespace", Nothing, NoEffect(LLGUIDANCE)),
    ("structured-outputs-config", Value, NoEffect(LLGUIDANCE)),
    ("enable-reasoning", Nothing, NoEffect("see --reasoning-parser, which is on by default")),
    ("reasoning-config", Value, Refused("see --reasoning-parser and --reasoning-budget")),
    ("reasoning-parser-plugin", Value, Refused(NO_PLUGINS)),
    ("tool-parser-plugin", Value, Refused(NO_PLUGINS)),
    ("tool-server", Value, Refused("tools are called by clients")),
    ("response-role", Value, Only(&["assistant"], "answers have the role assistant")),
    ("chat-template-content-format", Value, NoEffect("parts of a text are joined")),
    ("exclude-tools-when-tool-choice-none", Nothing, NoEffect("it is always so")),
    ("enable-prompt-tokens-details", Nothing, NoEffect("cached tokens are always reported")),
    (
        "enable-force-include-usage",
        Nothing,
        Refused("a stream reports usage when its request has stream_options.include_usage"),
    ),
    // Server.
    ("grpc", Nothing, Refused("the server speaks HTTP")),
    ("tokens-only", Nothing, Refused("text is always understood; token ids too, at /v1/completions")),
    ("middleware", Value, Refused(NO_PLUGINS)),
    ("ssl-keyfile-password", Value, Refused("decrypt the key: a password on a command line is no secret")),
    ("ssl-ciphers", Value, Refused("rustls speaks TLS 1.2 and 1.3 with sound ciphers only")),
    ("enable-ssl-refresh", Nothing, Refused("certificates are read at the start; restart the server")),
    ("enable-request-id-headers", Nothing, NoEffect("X-Request-Id is always in responses")),
    ("enable-server-load-tracking", Nothing, NoEffect("/load is always there")),
    (
        "disable-fastapi-docs",
        Nothing,
        NoEffect("there are no such pages; /openapi.json describes the interface"),
    ),
    ("enable-offline-docs", Nothing, NoEffect("/openapi.json describes the interface")),
    ("h11-max-incomplete-event-size", Value, NoEffect(LIMITS_FIXED)),
    ("h11-max-header-count", Value, NoEffect(LIMITS_FIXED)),
    // Logs and numbers.
    ("enable-log-requests", Nothing, NoEffect(REQUESTS_LOGGED)),
    ("enable-log-outputs", Nothing, NoEffect(NEVER_LOGGED)),
    ("enable-log-deltas", Nothing, NoEffect(NEVER_LOGGED)),
    ("max-log-len", Value, NoEffect(NEVER_LOGGED)),
    ("log-config-file", Value, Refused(LOG_FLAGS)),
    ("log-error-stack", Nothing, NoEffect(LOG_FLAGS)),
    ("disable-access-log-for-endpoints", Value, NoEffect("probes are logged at the level debug only")),
    ("disable-log-stats", Nothing, NoEffect("numbers are at /metrics and never in the log")),
    ("show-hidden-metrics-for-version", Value, NoEffect("no metric is hidden")),
    (
        "otlp-traces-endpoint",
        Value,
        Refused("no exporter of traces is built in; --log-format json has ids and times of every request"),
    ),
    ("collect-detailed-traces", Value, Refused("no exporter of traces is built in")),
    ("kv-cache-metrics", Nothing, NoEffect("metrics of the cache are always at /metrics")),
    ("kv-cache-metrics-sample", Value, NoEffect("metrics of the cache are always at /metrics")),
    ("cudagraph-metrics", Nothing, NoEffect(NO_GPU)),
    ("enable-mfu-metrics", Nothing, NoEffect("`undine bench --roofline` measures it")),
    ("enable-layerwise-nvtx-tracing", Nothing, NoEffect(NO_GPU)),
];

/// Which of them were given.
#[derive(Clone, Debug, Default)]
pub struct ForeignArgs {
    given: Vec<Given>,
}

#[derive(Clone, Debug)]
struct Given {
    flag: String,
    value: Option<String>,
    verdict: Verdict,
}

impl ForeignArgs {
    /// One sentence for each flag that changes nothing, or the reason why the server cannot start.
    pub fn judge(&self) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        for Given { flag, value, verdict } in &self.given {
            warnings.extend(verdict.judge(flag, value.as_deref())?);
        }
        Ok(warnings)
    }
}

impl clap::Args for ForeignArgs {
    fn augment_args(mut command: Command) -> Command {
        for &(name, takes, _) in FLAGS {
            command = match takes {
                Nothing => {
                    let no: &'static str = format!("no-{name}").leak();
                    let no = Arg::new(no).long(no).hide(true).action(ArgAction::Count);
                    command.arg(Arg::new(name).long(name).hide(true).action(ArgAction::Count)).arg(no)
                }
                // Several values in a row, as some of these take in vLLM, would swallow the model.
                Value => command.arg(
                    Arg::new(name).long(name).hide(true).action(ArgAction::Append).allow_hyphen_values(true),
                ),
            };
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ForeignArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for &(name, takes, verdict) in FLAGS {
            let flag = format!("--{name}");
            match takes {
                Nothing => {
                    if matches.get_count(name) > 0 {
                        given.push(Given { flag, value: None, verdict });
                    }
                    // What is refused is off already.
                    if matches.get_count(&format!("no-{name}")) > 0 && !matches!(verdict, Refused(_)) {
                        given.push(Given { flag: format!("--no-{name}"), value: None, verdict });
                    }
                }
                Value => {
                    let value =
                        matches.get_many::<String>(name).and_then(|mut values| values.next_back().cloned());
                    given.extend(value.map(|value| Given { flag, value: Some(value), verdict }));
                }
            }
        }
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::{Cli, Command};

    fn judge(line: &str) -> Result<Vec<String>, String> {
        let words = ["undine", "serve", "m"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Serve(args) => args.foreign.judge(),
            _ => panic!("serve"),
        }
    }

    #[test]
    fn flags_of_vllm_are_judged() {
        for (line, expected) in [
            ("", Ok(0)),
            ("--trust-remote-code --swap-space 4 --no-enforce-eager", Ok(3)),
            ("--tensor-parallel-size 1", Ok(0)),
            ("--tensor-parallel-size 2", Err("expected 1, found 2: one process")),
            ("--scheduling-policy priority", Ok(0)),
            ("--scheduling-policy lifo", Err("possible values: fcfs, priority")),
            ("--load-format auto --hf-token t", Ok(0)),
            ("--load-format dummy", Err("found dummy")),
            ("--enable-lora", Err("merge them")),
            ("--no-enable-lora", Ok(0)),
            ("--lora-modules a=b", Err("merge them")),
            ("--speculative-config {\"model\":\"x\"}", Err("speculative")),
            ("--otlp-traces-endpoint http://localhost:4317", Err("--log-format json")),
            ("--media-io-kwargs {} --quantization fp8 --tokenizer t --revision r --download-dir d", Ok(3)),
        ] {
            match (judge(line), expected) {
                (Ok(warnings), Ok(count)) => assert_eq!(warnings.len(), count, "{line}: {warnings:?}"),
                (Err(message), Err(part)) => assert!(message.contains(part), "{line}: {message}"),
                (found, _) => panic!("{line}: {found:?}"),
            }
        }
    }
}
