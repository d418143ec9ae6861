//! The flags of `undine serve`: Undine's own, and those of vLLM command lines that mean nothing here.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::args::{ExecutorArgs, parse_bytes};
use crate::format::parse_count_u32;

/// `undine serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// A .gguf file or a checkpoint folder [env: UNDINE_MODEL]; without one, the demo model inside the program.
    // Not `env`: a value from there would count as given, and contradict --model.
    pub model: Option<PathBuf>,
    /// The same as the positional MODEL.
    #[arg(long = "model", value_name = "MODEL", id = "model_flag", conflicts_with = "model")]
    pub model_flag: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, env = "UNDINE_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    #[arg(long, env = "UNDINE_PORT", default_value_t = 8000)]
    pub port: u16,
    /// Most tokens of a prompt and its answer; takes 32K and the like [default: the model's].
    #[arg(long, env = "UNDINE_MAX_MODEL_LEN", value_name = "TOKENS", value_parser = parse_count_u32)]
    pub max_model_len: Option<u32>,
    /// Most sequences computed at once.
    #[arg(long, env = "UNDINE_MAX_NUM_SEQS", default_value = "64", value_parser = parse_count_u32)]
    pub max_num_seqs: u32,
    /// Most tokens computed in one step.
    #[arg(long, env = "UNDINE_MAX_NUM_BATCHED_TOKENS", default_value = "512", value_parser = parse_count_u32)]
    pub max_num_batched_tokens: u32,
    /// Memory for keys and values, such as 4G [default: 4G, or what one full sequence needs].
    #[arg(long, env = "UNDINE_KV_CACHE_MEMORY_BYTES", value_name = "BYTES", value_parser = parse_bytes)]
    pub kv_cache_memory_bytes: Option<u64>,
    /// A name clients may ask for, repeatable; the first is the one in responses [default: the model's].
    // One value per flag: `--served-model-name N MODEL` must not take the model for a second name.
    #[arg(long, env = "UNDINE_SERVED_MODEL_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub served_model_name: Vec<String>,
    /// A Jinja template to use instead of the checkpoint's.
    #[arg(long, env = "UNDINE_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// A token clients must send, repeatable: one of them is enough.
    // One value per flag, as above. An empty one, as of an unset variable, could not be sent.
    #[arg(long, env = "UNDINE_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Vec<String>,
    /// Seconds that running requests may go on after SIGTERM.
    #[arg(long, env = "UNDINE_SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_timeout: u32,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
    /// Flags without a meaning here.
    #[command(flatten)]
    pub ignored: IgnoredArgs,
}

const EXAMPLES: &str = "Examples:
  undine serve                                      the demo model at http://127.0.0.1:8000
  undine serve LFM2-1.2B-Q4_K_M.gguf --port 8080 --max-model-len 32K
  undine serve ./LFM2-350M --served-model-name lfm2 --api-key secret

Flags of vLLM that mean nothing here, such as --enforce-eager, are accepted with a warning.";

macro_rules! ignored {
    (switches { $($switch:ident $switch_name:literal)* } values { $($value:ident $value_name:literal)* }) => {
        /// Flags of vLLM command lines that are accepted with a warning and change nothing.
        #[derive(Debug, Default, Args)]
        pub struct IgnoredArgs {
            $(#[arg(long = $switch_name, hide = true)] $switch: bool,)*
            $(#[arg(long = $value_name, hide = true)] $value: Option<String>,)*
            /// Processes to spread a model over; only 1 is possible.
            #[arg(long, hide = true)]
            pub tensor_parallel_size: Option<u32>,
        }

        impl IgnoredArgs {
            /// The flags that were given.
            pub fn given(&self) -> Vec<&'static str> {
                let mut given = Vec::new();
                $(if self.$switch { given.push(concat!("--", $switch_name)); })*
                $(if self.$value.is_some() { given.push(concat!("--", $value_name)); })*
                if self.tensor_parallel_size.is_some() { given.push("--tensor-parallel-size"); }
                given
            }
        }
    };
}

ignored! {
    switches {
        trust_remote_code "trust-remote-code"
        enforce_eager "enforce-eager"
        enable_expert_parallel "enable-expert-parallel"
        enable_prefix_caching "enable-prefix-caching"
        no_enable_prefix_caching "no-enable-prefix-caching"
        enable_chunked_prefill "enable-chunked-prefill"
        no_enable_chunked_prefill "no-enable-chunked-prefill"
        enable_auto_tool_choice "enable-auto-tool-choice"
    }
    values {
        gpu_memory_utilization "gpu-memory-utilization"
        optimization_level "optimization-level"
        compilation_config "compilation-config"
        mamba_backend "mamba-backend"
        mamba_cache_mode "mamba-cache-mode"
        mamba_cache_dtype "mamba-cache-dtype"
        mamba_ssm_cache_dtype "mamba-ssm-cache-dtype"
        mamba_block_size "mamba-block-size"
        mm_processor_cache_type "mm-processor-cache-type"
        limit_mm_per_prompt "limit-mm-per-prompt"
        tool_call_parser "tool-call-parser"
        reasoning_parser "reasoning-parser"
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::ServeArgs;
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
            assert_eq!(args.model.as_deref(), Some(Path::new("model")), "{line}");
            assert_eq!(args.api_key, ["a", "b,c"], "{line}");
            assert_eq!(args.served_model_name, ["x", "y,z"], "{line}");
        }
        for flag in ["--api-key", "--served-model-name"] {
            assert!(serve([flag, "", "model"]).is_err(), "an empty {flag}");
            assert!(serve(["model", flag]).is_err(), "no {flag}");
        }
    }

    #[test]
    fn flags_of_vllm_are_named_as_ignored() {
        let line = "undine serve m --trust-remote-code --gpu-memory-utilization 0.9 --tensor-parallel-size 1";
        let Command::Serve(args) = Cli::parse_from(line.split(' ')).command else { panic!("serve") };
        let given = args.ignored.given();
        assert_eq!(given, ["--trust-remote-code", "--gpu-memory-utilization", "--tensor-parallel-size"]);
    }
}
