//! The flags of `undine serve`, under the names that vLLM gives them where it has them.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value as Json};

use crate::args::{ExecutorArgs, parse_bytes};
use crate::args_media::MediaArgs;
use crate::foreign::ForeignArgs;
use crate::format::parse_count_u32;

/// `undine serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// What is served, and how it runs.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Where it is reached.
    #[command(flatten)]
    pub http: HttpArgs,
    /// Who may ask.
    #[command(flatten)]
    pub access: crate::args_access::AccessArgs,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
    /// Flags of vLLM without a meaning here.
    #[command(flatten)]
    pub foreign: ForeignArgs,
}

/// What is loaded, and how it runs; shared with `undine batch`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`) [env: UNDINE_MODEL]; without one,
    /// the demo model inside the program.
    // Not `env`: a value from there would count as given, and contradict --model.
    pub model: Option<PathBuf>,
    /// What is run.
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
    /// How to run.
    #[command(flatten, next_help_heading = "Computing")]
    pub executor: ExecutorArgs,
    /// How much at once.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How images are seen.
    #[command(flatten)]
    pub vision: crate::args_vision::VisionArgs,
    /// What answers are like.
    #[command(flatten)]
    pub answers: AnswerArgs,
    /// Images in requests.
    #[command(flatten)]
    pub media: MediaArgs,
}

/// What is served.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct CheckpointArgs {
    /// The same as the positional MODEL.
    #[arg(long = "model", value_name = "MODEL", id = "model_flag", conflicts_with = "model")]
    pub flag: Option<PathBuf>,
    /// The `model` of a configuration file; anything on the command line comes first.
    #[arg(long, hide = true)]
    pub model_in_config: Option<PathBuf>,
    /// A YAML file of flags, names with - or _; the command line comes before it, and it before the
    /// environment.
    // Read before the command line is parsed; it is here for the help and the list of names.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A name clients may ask for, repeatable; the first is the one in responses [default: the model's].
    // One value per flag: `--served-model-name N MODEL` must not take the model for a second name.
    #[arg(long, env = "UNDINE_SERVED_MODEL_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub served_model_name: Vec<String>,
    /// A Jinja template to use instead of the checkpoint's.
    #[arg(long, env = "UNDINE_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Where a model that is named is found.
    #[command(flatten)]
    pub hub: crate::args_hub::HubArgs,
}

/// How much at once.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory and scheduling")]
pub struct LimitArgs {
    /// Most tokens of a prompt and its answer; takes 32K and the like [default: the model's].
    #[arg(long, env = "UNDINE_MAX_MODEL_LEN", value_name = "TOKENS", value_parser = parse_context, allow_negative_numbers = true)]
    pub max_model_len: Option<Context>,
    /// Most sequences computed at once.
    #[arg(long, env = "UNDINE_MAX_NUM_SEQS", value_name = "SEQUENCES", default_value = "64", value_parser = parse_count_u32)]
    pub max_num_seqs: u32,
    /// Most tokens computed in one step; a longer prompt is computed in several, and never holds up other
    /// answers.
    #[arg(long, env = "UNDINE_MAX_NUM_BATCHED_TOKENS", value_name = "TOKENS", default_value = "512", value_parser = parse_count_u32)]
    pub max_num_batched_tokens: u32,
    /// Most sequences that wait for their turn; a request beyond them gets 503 with Retry-After.
    #[arg(long, env = "UNDINE_MAX_QUEUED_REQUESTS", value_name = "SEQUENCES", default_value = "1024", value_parser = parse_count_u32)]
    pub max_queued_requests: u32,
    /// Memory for keys and values, such as 4G; taken as it is used [default: 4G, or what one full sequence
    /// needs].
    #[arg(long, visible_alias = "kv-cache-memory", env = "UNDINE_KV_CACHE_MEMORY_BYTES", value_name = "BYTES", value_parser = parse_bytes)]
    pub kv_cache_memory_bytes: Option<u64>,
    /// The same as a share of this machine's memory, from which the weights are taken first.
    #[arg(long, env = "UNDINE_GPU_MEMORY_UTILIZATION", value_name = "SHARE", value_parser = parse_share, conflicts_with = "kv_cache_memory_bytes")]
    pub gpu_memory_utilization: Option<f64>,
    /// In which order requests of one client begin: fcfs, as they arrive, or priority, lower values of
    /// `priority` first.
    #[arg(long, env = "UNDINE_SCHEDULING_POLICY", value_name = "POLICY", value_enum, default_value = "fcfs")]
    pub scheduling_policy: SchedulingPolicy,
    /// Keep keys and values of what has been computed for prompts that begin the same (the default).
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,
    /// Compute every prompt anew.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,
    /// Let requests with different API keys use what is kept for the others, and so find out what was asked.
    #[arg(long)]
    pub share_prefix_cache: bool,
    /// Accepted: it is always so.
    #[arg(long, hide = true, overrides_with = "no_enable_chunked_prefill")]
    pub enable_chunked_prefill: bool,
    /// Accepted with a warning.
    #[arg(long, hide = true, overrides_with = "enable_chunked_prefill")]
    pub no_enable_chunked_prefill: bool,
}

/// What answers are like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answers")]
pub struct AnswerArgs {
    /// How reasoning is marked: qwen3, deepseek_r1 and lfm2 all mean `<think>`; none leaves it in the text.
    #[arg(long, env = "UNDINE_REASONING_PARSER", value_name = "PARSER", value_enum, default_value = "qwen3")]
    pub reasoning_parser: ReasoningParser,
    /// Most tokens of reasoning; 0 answers directly [default: no limit].
    #[arg(long, env = "UNDINE_REASONING_BUDGET", value_name = "TOKENS", value_parser = parse_budget)]
    pub reasoning_budget: Option<u32>,
    /// How tool calls are written: lfm2, or none to leave them in the text.
    #[arg(long, env = "UNDINE_TOOL_CALL_PARSER", value_name = "PARSER", value_enum, default_value = "lfm2")]
    pub tool_call_parser: ToolCallParser,
    /// Let the model decide when to call tools (the default).
    #[arg(long, overrides_with = "no_enable_auto_tool_choice")]
    pub enable_auto_tool_choice: bool,
    /// Leave tool calls in the text, as --tool-call-parser none does.
    #[arg(long, hide = true, overrides_with = "enable_auto_tool_choice")]
    pub no_enable_auto_tool_choice: bool,
    /// Accept a `chat_template` in requests: a template is a program, without files, network or endless
    /// loops.
    #[arg(long)]
    pub trust_request_chat_template: bool,
    /// Arguments of the chat template unless a request has its own, such as '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    pub default_chat_template_kwargs: Option<JsonObject>,
    /// Where sampling defaults come from: auto (the checkpoint, or its published preset), vllm (none), or a
    /// folder with generation_config.json.
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub generation_config: String,
    /// Sampling defaults that come before those, such as '{"temperature": 0.3, "min_p": 0.15}'.
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    pub override_generation_config: Option<JsonObject>,
    /// Seed of requests without one: the n-th of them gets the same in every run [default: nobody can foresee
    /// it].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Most log-probabilities per token that a request may ask for; -1 is as many as there can be, 128.
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = parse_logprobs, allow_negative_numbers = true)]
    pub max_logprobs: u32,
    /// Write tokens in log-probabilities as token_id:N, for clients that need ids.
    #[arg(long)]
    pub return_tokens_as_token_ids: bool,
}

/// Where it is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct HttpArgs {
    /// Address to listen on.
    #[arg(long, env = "UNDINE_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    #[arg(long, env = "UNDINE_PORT", default_value_t = 8000)]
    pub port: u16,
    /// Listen on this Unix socket instead; whoever may write to its file may connect, which is its owner
    /// unless the umask says otherwise. What is no socket, or one that somebody answers, is left alone.
    #[arg(long, env = "UNDINE_UDS", value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// A prefix of paths, such as /llm, that a proxy in front leaves in place.
    #[arg(long, value_name = "PREFIX", value_parser = parse_root_path)]
    pub root_path: Option<String>,
    /// The server's certificate in PEM form: speak TLS.
    #[arg(long, env = "UNDINE_SSL_CERTFILE", value_name = "FILE", requires = "ssl_keyfile")]
    pub ssl_certfile: Option<PathBuf>,
    /// The key to it, in PEM form and not encrypted.
    #[arg(long, env = "UNDINE_SSL_KEYFILE", value_name = "FILE", requires = "ssl_certfile")]
    pub ssl_keyfile: Option<PathBuf>,
    /// Certificates that sign those of clients.
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    pub ssl_ca_certs: Option<PathBuf>,
    /// Whether clients need one: 0 no, 1 if they show one it must be valid, 2 yes.
    #[arg(long, value_name = "0|1|2", value_parser = clap::value_parser!(u8).range(0..=2), requires = "ssl_certfile")]
    pub ssl_cert_reqs: Option<u8>,
    /// Longest request body.
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = parse_bytes)]
    pub max_body_bytes: u64,
    /// Most connections at once. Beyond them idle ones are closed; while all are being answered, probes are
    /// answered and everything else is refused.
    #[arg(long, env = "UNDINE_MAX_CONNECTIONS", value_name = "COUNT", default_value = "1024", value_parser = parse_count_u32)]
    pub max_connections: u32,
    /// Most of them from one address other than this machine's own; 0 is any number, for a server behind a
    /// proxy elsewhere [default: half of --max-connections].
    #[arg(long, env = "UNDINE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_connections_per_address: Option<u32>,
    /// Most requests of one client that are being answered or wait, a client being an API key if there are
    /// several, else an address other than this machine's own; more get 429 with Retry-After. 0 is any
    /// number.
    #[arg(long, env = "UNDINE_MAX_REQUESTS_PER_CLIENT", value_name = "COUNT", default_value_t = undine_server::REQUESTS_PER_CLIENT_MAX as u32)]
    pub max_requests_per_client: u32,
    /// Refuse requests with fields that undine does not know, instead of ignoring these with a line in the
    /// log and a header.
    #[arg(long)]
    pub strict_fields: bool,
    /// Answer /tokenizer_info: special tokens, and the chat template, which may be secret.
    #[arg(long)]
    pub enable_tokenizer_info_endpoint: bool,
    /// Seconds that running requests may go on after SIGTERM; a second signal ends the server at once.
    #[arg(long, env = "UNDINE_SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_timeout: u32,
}

/// What is logged.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// The least serious messages to log.
    #[arg(
        long = "log-level",
        visible_alias = "uvicorn-log-level",
        env = "UNDINE_LOG_LEVEL",
        value_name = "LEVEL",
        value_enum,
        default_value = "info"
    )]
    pub level: LogLevel,
    /// How to log, on standard error.
    #[arg(
        long = "log-format",
        env = "UNDINE_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub format: LogFormat,
    /// Do not log one line per request. Prompts and answers never are.
    #[arg(long, alias = "disable-uvicorn-access-log")]
    pub disable_log_requests: bool,
}

/// See [`AnswerArgs::reasoning_parser`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReasoningParser {
    /// Between `<think>` and `</think>`.
    #[value(aliases = ["deepseek_r1", "deepseek-r1", "deepseek_v3", "lfm2", "think", "auto"])]
    Qwen3,
    /// It stays in the text.
    #[value(alias = "")]
    None,
}

/// See [`LimitArgs::scheduling_policy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SchedulingPolicy {
    /// In order of arrival.
    Fcfs,
    /// In order of `priority`.
    Priority,
}

/// See [`AnswerArgs::tool_call_parser`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ToolCallParser {
    /// The format of LFM2 and LFM2.5.
    #[value(aliases = ["lfm2.5", "auto", "pythonic"])]
    Lfm2,
    /// They stay in the text.
    None,
}

/// Levels, with Python's names too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogLevel {
    /// What ends the server.
    #[value(alias = "critical")]
    Error,
    /// What should be looked at.
    #[value(alias = "warn")]
    Warning,
    /// One line per request.
    Info,
    /// Connections and probes too.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Of `--max-model-len`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// So many tokens.
    Tokens(u32),
    /// `auto` or -1: as many as the model and the cache have.
    Auto,
}

/// A JSON object.
#[derive(Clone, PartialEq, Debug)]
pub struct JsonObject(pub Map<String, Json>);

const EXAMPLES: &str = "Examples:
  undine serve                                      the demo model at http://127.0.0.1:8000
  undine serve LFM2-1.2B-Q4_K_M.gguf --port 8080 --max-model-len 32K
  undine serve lfm2.5:1.2b                          a model of the hub, fetched if need be
  undine serve ./LFM2-350M --served-model-name lfm2 --api-key secret
  undine serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --ssl-certfile cert.pem --ssl-keyfile key.pem
  undine serve model.gguf --uds /run/undine.sock --log-format json
  undine serve --config server.yaml --port 9000     flags from a file, one of them replaced

Command lines of `vllm serve` work: a flag without a meaning here is accepted with a warning that says so, or refused \
with the reason.";

fn parse_context(text: &str) -> Result<Context, String> {
    match text {
        "auto" | "-1" => Ok(Context::Auto),
        text => parse_count_u32(text).map(Context::Tokens),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("expected a number above 0, at most 1, such as 0.5".to_owned()),
    }
}

fn parse_budget(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { parse_count_u32(text) }
}

fn parse_logprobs(text: &str) -> Result<u32, String> {
    let most = undine_engine::LOGPROBS_MAX;
    match text.parse::<i64>() {
        Ok(-1) => Ok(most),
        Ok(count) if (0..=i64::from(most)).contains(&count) => Ok(count as u32),
        _ => Err(format!("expected a whole number from 0 to {most}, or -1")),
    }
}

fn parse_root_path(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    if path.is_empty() || path.starts_with('/') && !path.contains(['?', '#', ' ']) {
        return Ok(path.to_owned());
    }
    Err("expected a path that begins with /, such as /llm".to_owned())
}

/// A flag's JSON object.
pub fn parse_object(text: &str) -> Result<JsonObject, String> {
    let object = serde_json::from_slice(&undine_text::exact::marked(text.as_bytes()));
    object.map(JsonObject).map_err(|error| format!("expected a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn serve<'a>(line: impl IntoIterator<Item = &'a str>) -> Result<ServeArgs, clap::Error> {
        match Cli::try_parse_from(["undine", "serve"].into_iter().chain(line))?.command {
            Command::Serve(args) => Ok(*args),
            _ => panic!("serve"),
        }
    }

    #[test]
    fn keys_and_names_take_one_value_each() {
        for line in [
            "--api-key a --api-key b,c --served-model-name x --served-model-name y,z model",
            "--api-key a --served-model-name x model --api-key b,c --served-model-name=y,z",
        ] {
            let args = serve(line.split(' ')).unwrap();
            assert_eq!(args.load.model.as_deref(), Some(Path::new("model")), "{line}");
            assert_eq!(args.access.api_key, ["a", "b,c"], "{line}");
            assert_eq!(args.load.checkpoint.served_model_name, ["x", "y,z"], "{line}");
        }
        for flag in ["--api-key", "--served-model-name"] {
            assert!(serve([flag, "", "model"]).is_err(), "an empty {flag}");
            assert!(serve(["model", flag]).is_err(), "no {flag}");
        }
    }

    #[test]
    fn lines_parse_or_not() {
        for (line, accepted) in [
            ("m --reasoning-parser deepseek_r1 --tool-call-parser lfm2 --enable-auto-tool-choice", true),
            ("m --reasoning-parser none --reasoning-budget 0", true),
            ("m --reasoning-parser olmo3", false),
            ("m --tool-call-parser hermes", false),
            ("m --max-model-len auto --max-logprobs -1", true),
            ("m --max-model-len -1", true),
            ("m --max-logprobs 1000", false),
            ("m --gpu-memory-utilization 0.9", true),
            ("m --gpu-memory-utilization 1.5", false),
            ("m --gpu-memory-utilization 0.9 --kv-cache-memory 4G", false),
            ("m --kv-cache-memory 4G", true),
            ("m --enable-prefix-caching --no-enable-prefix-caching", true),
            ("m --ssl-certfile a", false),
            ("m --ssl-certfile a --ssl-keyfile b --ssl-ca-certs c --ssl-cert-reqs 2", true),
            ("m --ssl-certfile a --ssl-keyfile b --ssl-cert-reqs 3", false),
            ("m --allowed-origins [\"*\"] --allowed-methods GET,POST", true),
            ("m --allowed-origins [*]", false),
            ("m --allow-credentials", false),
            ("m --root-path /a/b/", true),
            ("m --root-path a", false),
            ("m --default-chat-template-kwargs {\"enable_thinking\":false}", true),
            ("m --default-chat-template-kwargs [1]", false),
            ("m --uvicorn-log-level warning --disable-uvicorn-access-log --log-format json", true),
            ("m --kv-cache-dtype fp8 --dtype half --seed 0", true),
            ("m --enable-prefix-cachin", false),
        ] {
            let parsed = serve(line.split(' '));
            assert_eq!(parsed.is_ok(), accepted, "{line}: {:?}", parsed.err().map(|error| error.to_string()));
        }
        let unknown = serve(["--max-num-seq", "3"]).unwrap_err().to_string();
        assert!(unknown.contains("--max-num-seqs"), "a suggestion: {unknown}");
    }
}
