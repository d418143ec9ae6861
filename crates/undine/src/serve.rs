//! `undine serve`: the CPU backend behind the HTTP server.

use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use undine_server::{
    CacheSharing, ClientCertificates, Cors, Credentials, Hosts, Listener, RequestLog, ServerConfig, Tls,
    TlsFiles,
};

use crate::args_access::{AccessArgs, parse_key};
use crate::args_serve::{HttpArgs, ServeArgs};
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::logging;
use crate::serve_hello::{self, Place};
use crate::serve_load::LoadPlan;
use crate::{runtime, session, text_file};

/// Longest file of API keys.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// Ports after one that is taken, of which the first free one is suggested.
const PORTS_TRIED: u16 = 20;
/// Where vLLM looks for a key when no flag has one.
const VLLM_API_KEY: &str = "VLLM_API_KEY";

/// Runs the command. `notes` are on flags and variables of other programs.
pub fn run(args: &ServeArgs, notes: &[String]) -> Result<(), Error> {
    logging::start(&args.log);
    for note in notes {
        tracing::warn!("{note}");
    }
    for warning in args.foreign.judge().map_err(Error::usage)? {
        tracing::warn!("{warning}");
    }
    if args.load.limits.no_enable_chunked_prefill {
        tracing::warn!("--no-enable-chunked-prefill has no effect: a prompt never holds up other answers");
    }
    let plan = LoadPlan::new(&args.load)?;
    let connections_max = connections_max(args.http.max_connections as usize);
    let config = ServerConfig {
        api_keys: api_keys(&args.access)?,
        cache_sharing: match args.load.limits.share_prefix_cache {
            true => CacheSharing::AcrossKeys,
            false => CacheSharing::WithinKey,
        },
        cors: cors(&args.access),
        root_path: args.http.root_path.clone().unwrap_or_default(),
        body_bytes_max: usize::try_from(args.http.max_body_bytes).unwrap_or(usize::MAX),
        hosts: hosts(args)?,
        connections_max,
        connections_per_address_max: match args.http.max_connections_per_address {
            Some(0) => None,
            Some(most) => Some(most as usize),
            None => Some(connections_max.div_ceil(2)),
        },
        requests_per_client_max: Some(args.http.max_requests_per_client as usize).filter(|&most| most > 0),
        drain_timeout: Duration::from_secs(args.http.shutdown_timeout.into()),
        media: args.load.media.config()?,
        strict_fields: args.http.strict_fields,
        tokenizer_info: args.http.enable_tokenizer_info_endpoint,
        request_log: if args.log.disable_log_requests { RequestLog::Off } else { RequestLog::On },
        ..ServerConfig::default()
    };
    let tls = tls_files(&args.http).map(|files| Tls::open(&files)).transpose()?;
    let runtime = runtime::new(session::threads(&args.load.executor))?;
    let served = runtime.block_on(serve(args, plan, config, tls));
    // A load that cannot be interrupted must not hold up the exit.
    runtime.shutdown_background();
    served
}

async fn serve(
    args: &ServeArgs,
    plan: LoadPlan,
    config: ServerConfig,
    tls: Option<Tls>,
) -> Result<(), Error> {
    // The file goes with the server, at whatever return.
    let (listener, _socket_file) = listen(&args.http).await?;
    if config.api_keys.is_empty() && !requires_certificates(&args.http) {
        warn_of_openness(&listener);
    }
    let shutdown = shutdown_signal()?;
    let name = plan.name().to_owned();
    let place = Place {
        scheme: if tls.is_some() { "https" } else { "http" },
        address: listener.local_address().filter(|_| args.http.uds.is_none()),
        socket: args.http.uds.clone(),
        root_path: config.root_path.clone(),
        has_key: !config.api_keys.is_empty(),
    };
    // Nobody may be reading; that is no reason to stop serving.
    let announce = Box::new(move |capacity| drop(serve_hello::announce(&name, &place, capacity)));
    let load = Box::new(move || plan.load(announce).map_err(Into::into));
    let listener = match tls {
        Some(tls) => listener.with_tls(tls),
        None => listener,
    };
    undine_server::serve(listener, load, config, shutdown).await.map_err(Error::from)
}

/// What a bound Unix socket leaves in the file system until it is dropped.
#[cfg(unix)]
type SocketFile = crate::serve_socket::SocketFile;
#[cfg(not(unix))]
type SocketFile = std::convert::Infallible;

async fn listen(args: &HttpArgs) -> Result<(Listener, Option<SocketFile>), Error> {
    if let Some(path) = &args.uds {
        return listen_unix(path);
    }
    let place = (args.host.as_str(), args.port);
    let listener = TcpListener::bind(place).await;
    let refused = |source: std::io::Error| {
        let free = if source.kind() == std::io::ErrorKind::AddrInUse {
            next_free(&args.host, args.port)
        } else {
            None
        };
        let advice = free.map_or_else(String::new, |port| format!("; --port {port} is free"));
        Error::refused(format!("cannot listen on {}:{}: {source}{advice}", args.host, args.port))
    };
    Ok((listener.map_err(refused)?.into(), None))
}

/// A port near one that is taken.
fn next_free(host: &str, port: u16) -> Option<u16> {
    let near = (1..=PORTS_TRIED).filter_map(|step| port.checked_add(step));
    near.into_iter().find(|&port| std::net::TcpListener::bind((host, port)).is_ok())
}

#[cfg(unix)]
fn listen_unix(path: &Path) -> Result<(Listener, Option<SocketFile>), Error> {
    let (listener, file) = SocketFile::bind(path)?;
    Ok((listener.into(), Some(file)))
}

#[cfg(not(unix))]
fn listen_unix(path: &Path) -> Result<(Listener, Option<SocketFile>), Error> {
    Err(Error::usage(format!("--uds {}: this system has no such sockets; use --port", path.display())))
}

/// As many connections as are asked for, or as the system lets this process have.
#[cfg(unix)]
fn connections_max(asked: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The soft limit is for programs that cannot count beyond 1024.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = if raised.is_ok() { maximum } else { current };
    let Some(allowed) = allowed.and_then(|allowed| usize::try_from(allowed).ok()) else { return asked };
    let possible = allowed.saturating_sub(undine_server::DESCRIPTORS_BESIDE_CONNECTIONS).max(1);
    if possible < asked {
        tracing::warn!(
            "--max-connections {asked} is more than this process may have open: {possible} connections, with a limit of \
             {allowed} files; raise that (ulimit -Hn, LimitNOFILE=)"
        );
    }
    asked.min(possible)
}

#[cfg(not(unix))]
fn connections_max(asked: usize) -> usize {
    asked
}

/// The names that are allowed, and those that are this server's anyway.
fn hosts(args: &ServeArgs) -> Result<Hosts, Error> {
    let mut names = args.access.allowed_hosts.as_ref().map_or_else(Vec::new, |list| list.0.clone());
    let wrong = |error| Error::usage(format!("--allowed-hosts: {error}"));
    Hosts::new(&names).map_err(wrong)?;
    // What cannot be a name in a URL cannot be asked for, either.
    names.extend([Some(args.http.host.clone()), machine_name()].into_iter().flatten().filter(|name| {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        !is_address && !name.starts_with(['.', '*']) && Hosts::new(std::slice::from_ref(name)).is_ok()
    }));
    Hosts::new(&names).map_err(wrong)
}

/// As the system has it, or whoever started this says.
fn machine_name() -> Option<String> {
    let in_system =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    in_system.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok())
}

/// Says so when everybody who reaches this machine may use the server.
fn warn_of_openness(listener: &Listener) {
    if let Some(address) =
        listener.local_address().filter(|address| !address.ip().to_canonical().is_loopback())
    {
        tracing::warn!(
            "ANYONE WHO REACHES {address} CAN USE THIS SERVER: it listens beyond this machine, and asks for no key. Give it \
             --api-key-file FILE (or UNDINE_API_KEY), or let it listen on this machine alone: --host 127.0.0.1"
        );
    }
}

/// Whether clients show certificates, which is as good as a key.
fn requires_certificates(args: &HttpArgs) -> bool {
    args.ssl_ca_certs.is_some() && args.ssl_cert_reqs.is_none_or(|wanted| wanted > 1)
}

fn api_keys(args: &AccessArgs) -> Result<Vec<String>, Error> {
    let given = args.api_key.iter().map(|key| parse_key(key));
    let mut keys: Vec<String> =
        given.collect::<Result<_, _>>().map_err(|reason| Error::usage(format!("--api-key: {reason}")))?;
    if let Some(path) = &args.api_key_file {
        let text = text_file::read(path, KEY_FILE_BYTES_MAX)?;
        let before = keys.len();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let wrong = |reason| Error::refused(format!("{}: line {}: {reason}", path.display(), i + 1));
                keys.push(parse_key(line).map_err(wrong)?);
            }
        }
        if keys.len() == before {
            // An empty file would otherwise open the server to everyone.
            return Err(Error::refused(format!(
                "{}: expected at least one key, one per line",
                path.display()
            )));
        }
    }
    // Taken for no key, a blank one would open the server to everyone.
    if let (true, Some(key)) = (keys.is_empty(), std::env::var_os(VLLM_API_KEY)) {
        let wrong = |reason| Error::refused(format!("{VLLM_API_KEY}: {reason}"));
        keys.push(parse_key(&key.to_string_lossy()).map_err(wrong)?);
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
