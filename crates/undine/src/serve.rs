//! `undine serve`: the CPU backend behind the HTTP server.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use undine_server::{
    CacheSharing, ClientCertificates, Cors, Credentials, Listener, RequestLog, ServerConfig, Tls, TlsFiles,
};

use crate::args_serve::{AccessArgs, HttpArgs, ServeArgs};
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::logging;
use crate::serve_load::LoadPlan;
use crate::text_file;

/// Longest file of API keys.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// Where vLLM looks for a key when no flag has one.
const VLLM_API_KEY: &str = "VLLM_API_KEY";

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<(), Error> {
    logging::start(&args.log);
    for warning in args.foreign.judge().map_err(Error::usage)? {
        tracing::warn!("{warning}");
    }
    if args.load.limits.no_enable_chunked_prefill {
        tracing::warn!("--no-enable-chunked-prefill has no effect: a prompt never holds up other answers");
    }
    let plan = LoadPlan::new(&args.load)?;
    let config = ServerConfig {
        api_keys: api_keys(&args.access)?,
        cache_sharing: match args.load.limits.share_prefix_cache {
            true => CacheSharing::AcrossKeys,
            false => CacheSharing::WithinKey,
        },
        cors: cors(&args.access),
        root_path: args.http.root_path.clone().unwrap_or_default(),
        body_bytes_max: usize::try_from(args.http.max_body_bytes).unwrap_or(usize::MAX),
        connections_max: args.http.max_connections as usize,
        drain_timeout: Duration::from_secs(args.http.shutdown_timeout.into()),
        media: args.load.media.config()?,
        request_log: if args.log.disable_log_requests { RequestLog::Off } else { RequestLog::On },
        ..ServerConfig::default()
    };
    let tls = tls_files(&args.http).map(|files| Tls::open(&files)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(args, plan, config, tls));
    // A load that cannot be interrupted must not hold up the exit.
    runtime.shutdown_background();
    if let Some(path) = &args.http.uds {
        drop(std::fs::remove_file(path));
    }
    served
}

async fn serve(
    args: &ServeArgs,
    plan: LoadPlan,
    config: ServerConfig,
    tls: Option<Tls>,
) -> Result<(), Error> {
    let listener = listen(&args.http).await?;
    let shutdown = shutdown_signal()?;
    let name = plan.name().to_owned();
    let line = match (&args.http.uds, listener.local_address()) {
        (None, Some(address)) => {
            let scheme = if tls.is_some() { "https" } else { "http" };
            format!("serving {name} at {scheme}://{address}{}/v1", config.root_path)
        }
        (path, _) => format!("serving {name} at unix:{}", path.as_deref().unwrap_or(Path::new("")).display()),
    };
    // Nobody may be reading; that is no reason to stop serving.
    let announce = Box::new(move || drop(writeln!(std::io::stdout(), "{line}")));
    let load = Box::new(move || plan.load(announce).map_err(Into::into));
    let listener = match tls {
        Some(tls) => listener.with_tls(tls),
        None => listener,
    };
    undine_server::serve(listener, load, config, shutdown).await.map_err(Error::from)
}

async fn listen(args: &HttpArgs) -> Result<Listener, Error> {
    if let Some(path) = &args.uds {
        return listen_unix(path);
    }
    let place = (args.host.as_str(), args.port);
    let listener = TcpListener::bind(place).await;
    let refused = |source| Error::refused(format!("cannot listen on {}:{}: {source}", args.host, args.port));
    Ok(listener.map_err(refused)?.into())
}

#[cfg(unix)]
fn listen_unix(path: &Path) -> Result<Listener, Error> {
    // A socket that nobody answers is left over from a server that was killed.
    let is_left_over = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    if is_left_over {
        std::fs::remove_file(path).map_err(|source| Error::file(path, source))?;
    }
    let refused = |source| Error::refused(format!("cannot listen on {}: {source}", path.display()));
    Ok(tokio::net::UnixListener::bind(path).map_err(refused)?.into())
}

#[cfg(not(unix))]
fn listen_unix(path: &Path) -> Result<Listener, Error> {
    Err(Error::usage(format!("--uds {}: this system has no such sockets; use --port", path.display())))
}

fn api_keys(args: &AccessArgs) -> Result<Vec<String>, Error> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let text = text_file::read(path, KEY_FILE_BYTES_MAX)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            // An empty file would otherwise open the server to everyone.
            return Err(Error::refused(format!(
                "{}: expected at least one key, one per line",
                path.display()
            )));
        }
    }
    if keys.is_empty() {
        keys.extend(std::env::var(VLLM_API_KEY).ok().filter(|key| !key.is_empty()));
    }
    Ok(keys)
}

fn cors(args: &AccessArgs) -> Option<Cors> {
    let origins = args.allowed_origins.as_ref().filter(|origins| !origins.0.is_empty())?;
    Some(Cors {
        origins: origins.0.clone(),
        methods: args.allowed_methods.0.clone(),
        headers: args.allowed_headers.0.clone(),
        credentials: if args.allow_credentials { Credentials::Allowed } else { Credentials::Withheld },
    })
}

fn tls_files(args: &HttpArgs) -> Option<TlsFiles> {
    let wanted = match args.ssl_cert_reqs {
        Some(0) => None,
        Some(1) => Some(ClientCertificates::Optional),
        _ => Some(ClientCertificates::Required),
    };
    Some(TlsFiles {
        certificate: args.ssl_certfile.clone()?,
        key: args.ssl_keyfile.clone()?,
        clients: args.ssl_ca_certs.clone().zip(wanted),
    })
}

/// Resolves at the first SIGTERM or Ctrl-C; a second one ends the process at once.
fn shutdown_signal() -> Result<impl Future<Output = ()>, Error> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
        tracing::info!("shutting down: running requests are finished first; a second signal ends at once");
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("ended by a second signal");
            std::process::exit(EXIT_INTERRUPTED.into());
        });
    })
}

/// SIGTERM and SIGINT.
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes them over.
    #[cfg(unix)]
    pub fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next one.
    #[cfg(unix)]
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// There are none to take over.
    #[cfg(not(unix))]
    pub fn new() -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Resolves at the next Ctrl-C.
    #[cfg(not(unix))]
    pub async fn next(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}
