//! Serves the tests' mock model, for trying clients by hand: `cargo run -p undine-server --example
//! mock_server -- 8000 [API_KEY]`.

#[allow(dead_code, clippy::unwrap_used, reason = "the tests use the rest, and a test may panic")]
#[path = "../tests/server/support/mod.rs"]
mod support;

use std::error::Error;

use undine_server::{ServerConfig, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or_default().parse().map_err(|_| "expected a port number")?;
    let config = ServerConfig { api_keys: arguments.collect(), ..ServerConfig::default() };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/v1", listener.local_addr()?);
    let load = Box::new(|| Ok(support::Setup::default().loaded()));
    serve(listener, load, config, async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
