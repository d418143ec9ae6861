//! `undine batch` on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::args_serve::LoadArgs;
use crate::format::parse_count_u32;

/// `undine batch`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BatchArgs {
    /// Requests, one JSON object a line: custom_id, method, url and body.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where results are appended, one JSON object a line, as they come.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Where the results of refused requests go instead.
    #[arg(long, value_name = "FILE")]
    pub error_file: Option<PathBuf>,
    /// Requests in flight [default: --max-num-seqs and 16 more, so that none of its places is ever free].
    #[arg(long, value_name = "REQUESTS", value_parser = parse_count_u32)]
    pub concurrency: Option<u32>,
    /// Throw away the results there are, and begin anew.
    #[arg(long)]
    pub restart: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// What is run, and how.
    #[command(flatten)]
    pub load: LoadArgs,
}

const EXAMPLES: &str = "Examples:
  undine batch LFM2-1.2B-Q4_K_M.gguf -i requests.jsonl -o results.jsonl
  undine batch model.gguf -i requests.jsonl -o results.jsonl --error-file errors.jsonl --json
  undine batch model.gguf -i openai.jsonl -o results.jsonl --served-model-name gpt-4o-mini

A request, as in OpenAI's batch files (one line):
  {\"custom_id\": \"a1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 50}}
url is /v1/chat/completions or /v1/completions. All lines are checked before the model is loaded: one that is no request, \
names another model or repeats a custom_id is told with its number, and nothing is run. A request that the API refuses for \
its content gets its 4xx as its result.

Results come in the order in which they are done. The same command goes on where an earlier one ended, however that \
was: complete lines are kept, a torn last line is cut off, finished requests are skipped. FILE.batch beside the results \
says which input they belong to; with another input the command refuses. Ctrl-C lets running requests finish; a second \
one ends at once.";
