//! The flags of `undine serve`: Undine's own, and those of vLLM command lines that mean nothing here.

use std::path::PathBuf;

use clap::Args;

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
    /// Names clients may ask for; the first is the one in responses [default: the model's].
    #[arg(long, env = "UNDINE_SERVED_MODEL_NAME", value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub served_model_name: Vec<String>,
    /// A Jinja template to use instead of the checkpoint's.
    #[arg(long, env = "UNDINE_CHAT_TEMPLATE", value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Tokens of which clients must send one.
    #[arg(long, env = "UNDINE_API_KEY", hide_env_values = true, value_name = "KEY", num_args = 1.., value_delimiter = ',')]
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
    use clap::Parser;

    use crate::args::{Cli, Command};

    #[test]
    fn flags_of_vllm_are_named_as_ignored() {
        let line = "undine serve m --trust-remote-code --gpu-memory-utilization 0.9 --tensor-parallel-size 1";
        let Command::Serve(args) = Cli::parse_from(line.split(' ')).command else { panic!("serve") };
        let given = args.ignored.given();
        assert_eq!(given, ["--trust-remote-code", "--gpu-memory-utilization", "--tensor-parallel-size"]);
    }
}
