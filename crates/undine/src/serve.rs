//! `undine serve`: the CPU backend behind the HTTP server.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use undine_core::executor::ExecutorFactory;
use undine_core::{Config, Executor, ExecutorError};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_engine::EngineConfig;
use undine_model::Model;
use undine_server::{AnswerOptions, Loaded, ServerConfig, ServerModel};

use crate::args::ExecutorArgs;
use crate::args_serve::ServeArgs;
use crate::error::Error;
use crate::{open, sampling, session};

/// Memory for keys and values unless asked for otherwise. It is taken as it is used.
const KV_BYTES_DEFAULT: u64 = 4 << 30;
/// Requests that may wait for their turn.
const WAITING_MAX: u32 = 1024;
/// Rows through the head in one step, at least: prompts are scored so many tokens at a time.
const OUTPUTS_MIN: u32 = 64;
/// How often to ask whether the model has been loaded.
const READY_POLL: Duration = Duration::from_millis(50);
/// Longest chat template file.
const TEMPLATE_BYTES_MAX: u64 = undine_text::template::TEMPLATE_BYTES_MAX as u64;

/// What the load needs of the arguments, on another thread.
struct LoadPlan {
    model: Option<PathBuf>,
    max_model_len: Option<u32>,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    kv_cache_memory_bytes: Option<u64>,
    names: Vec<String>,
    chat_template: Option<String>,
    executor: ExecutorArgs,
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<(), Error> {
    for flag in args.ignored.given() {
        eprintln!("warning: {flag} has no effect here");
    }
    if let Some(size @ 2..) = args.ignored.tensor_parallel_size {
        return Err(Error::usage(format!("--tensor-parallel-size {size}: there is one device, the CPU")));
    }
    let plan = LoadPlan::new(args)?;
    let config = ServerConfig {
        api_keys: args.api_key.clone(),
        drain_timeout: Duration::from_secs(args.shutdown_timeout.into()),
        ..ServerConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind((args.host.as_str(), args.port)).await.map_err(|source| {
            Error::refused(format!("cannot listen on {}:{}: {source}", args.host, args.port))
        })?;
        let address = listener.local_addr()?;
        let shutdown = shutdown_signal()?;
        let announce = tokio::spawn(announce(address, plan.names[0].clone()));
        let load = Box::new(move || plan.load().map_err(Into::into));
        let result = undine_server::serve(listener, load, config, shutdown).await;
        announce.abort();
        result.map_err(Error::from)
    });
    // A load that cannot be interrupted must not hold up the exit.
    runtime.shutdown_background();
    served
}

/// Resolves at the first SIGTERM or Ctrl-C.
fn shutdown_signal() -> Result<impl Future<Output = ()>, Error> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("shutting down: running requests are finished first");
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async { drop(tokio::signal::ctrl_c().await) })
    }
}

/// Prints one line as soon as the server says that it is ready.
async fn announce(address: SocketAddr, name: String) {
    while !is_ready(address).await {
        tokio::time::sleep(READY_POLL).await;
    }
    // Nobody may be reading; that is no reason to stop serving.
    drop(writeln!(std::io::stdout(), "serving {name} at http://{address}/v1"));
}

/// Asks `/health` as any client would: the server alone knows when it is ready.
async fn is_ready(address: SocketAddr) -> bool {
    // A wildcard address is for listening; its own host answers there.
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => std::net::Ipv4Addr::LOCALHOST.into(),
        _ => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let ask = async {
        let mut stream = TcpStream::connect((ip, address.port())).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut status = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await?;
        Ok::<_, std::io::Error>(status.ends_with(b"200"))
    };
    ask.await.unwrap_or(false)
}

impl LoadPlan {
    fn new(args: &ServeArgs) -> Result<Self, Error> {
        let model = args.model_flag.clone().or_else(|| args.model.clone());
        let model = model.or_else(|| std::env::var_os("UNDINE_MODEL").map(PathBuf::from));
        let names = match args.served_model_name.as_slice() {
            [] => default_names(model.as_deref()),
            names => names.to_vec(),
        };
        Ok(Self {
            model,
            max_model_len: args.max_model_len,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            kv_cache_memory_bytes: args.kv_cache_memory_bytes,
            names,
            chat_template: args.chat_template.as_deref().map(read_template).transpose()?,
            executor: args.executor.clone(),
        })
    }

    fn load(self) -> Result<Loaded, Error> {
        let checkpoint = open::open(self.model.as_deref())?;
        let tokenizer = open::tokenizer(&checkpoint)?;
        let source = self.chat_template.as_deref().or(checkpoint.chat_template());
        let template = match (source, &tokenizer) {
            (Some(source), Some(tokenizer)) => Some(open::template(source, tokenizer)?),
            _ => None,
        };
        let model = ServerModel {
            sampling_defaults: sampling::defaults(&checkpoint, &self.names[0]),
            names: self.names,
            tokenizer,
            template,
            eos: checkpoint.special_tokens().eos.clone(),
            answers: AnswerOptions::default(),
        };
        let context = session::context(checkpoint.config(), self.max_model_len)?;
        let kv = session::kv_type(&self.executor, &checkpoint);
        let blocks = blocks(checkpoint.config(), kv, context, self.max_num_seqs, self.kv_cache_memory_bytes)?;
        let options = CpuOptions {
            threads: session::threads(&self.executor),
            blocks,
            slots: self.max_num_seqs,
            rows: self.max_num_batched_tokens,
            outputs: self.max_num_seqs.max(OUTPUTS_MIN),
            kv,
            isa: Isa::detect(),
        };
        let factory: ExecutorFactory = Box::new(move || {
            let executor = CpuExecutor::new(Arc::new(Model::bind(checkpoint)), options)
                .map_err(|error| ExecutorError(error.to_string()))?;
            Ok(Box::new(executor) as Box<dyn Executor>)
        });
        let engine = EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_model_len: context,
            max_waiting: WAITING_MAX,
            prefill_chunk: self.max_num_batched_tokens,
        };
        Ok(Loaded { model, factory, engine })
    }
}

/// The file's or folder's name without `.gguf`, and the path as it was given.
fn default_names(model: Option<&Path>) -> Vec<String> {
    let name = open::display_name(model);
    let mut names = vec![name.strip_suffix(".gguf").unwrap_or(&name).to_owned()];
    names.extend(model.map(|path| path.display().to_string()).filter(|path| *path != names[0]));
    names
}

fn read_template(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::file(path, source);
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > TEMPLATE_BYTES_MAX {
        let message = format!("{}: {bytes} bytes, expected at most {TEMPLATE_BYTES_MAX}", path.display());
        return Err(Error::refused(message));
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// Pages of keys and values: as many as all sequences can use, within the memory for them.
fn blocks(
    config: &Config,
    kv: KvType,
    context: u32,
    sequences: u32,
    bytes: Option<u64>,
) -> Result<u32, Error> {
    let for_one = context.div_ceil(BLOCK_SIZE);
    let wanted = u64::from(for_one) * u64::from(sequences);
    let token_bytes = kv.token_bytes(config) as u64;
    let block_bytes = (token_bytes * u64::from(BLOCK_SIZE)).max(1);
    let affordable = match bytes {
        Some(bytes) => bytes / block_bytes,
        None => (KV_BYTES_DEFAULT / block_bytes).max(for_one.into()),
    };
    match u32::try_from(wanted.min(affordable)) {
        Ok(0) => Err(Error::refused(format!(
            "--kv-cache-memory-bytes holds less than one page of {BLOCK_SIZE} tokens, which takes {block_bytes} bytes"
        ))),
        Ok(blocks) => Ok(blocks),
        Err(_) => {
            Err(Error::refused("more pages of keys and values than can be counted; lower --max-num-seqs"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_served_under_its_file_name_and_its_path() {
        assert_eq!(default_names(Some(Path::new("/m/LFM2-1.2B.gguf"))), ["LFM2-1.2B", "/m/LFM2-1.2B.gguf"]);
        assert_eq!(default_names(Some(Path::new("model"))), ["model"]);
        assert_eq!(default_names(None), [open::DEMO_NAME]);
    }
}
