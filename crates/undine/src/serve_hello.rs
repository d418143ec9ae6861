//! What a server says when it is ready.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::format::{Bytes, grouped};
use crate::output;
use crate::serve_load::Capacity;
use crate::shown;
use crate::wrap;

/// Where it is reached.
pub struct Place {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Of a TCP socket.
    pub address: Option<SocketAddr>,
    /// Of a Unix socket.
    pub socket: Option<PathBuf>,
    /// What stands before every path.
    pub root_path: String,
    /// Whether clients must send one.
    pub has_key: bool,
}

/// Writes one line that programs may wait for, and to a terminal what to do now.
pub fn announce(name: &str, place: &Place, capacity: Capacity) -> io::Result<()> {
    let mut out = shown::stdout();
    writeln!(out, "serving {name} at {}", place.url())?;
    if io::stdout().is_terminal() {
        write!(out, "{}", advice(place, capacity, output::columns()))?;
    }
    out.flush()
}

impl Place {
    fn url(&self) -> String {
        let Self { scheme, root_path, .. } = self;
        match (self.address, &self.socket) {
            (Some(address), _) => format!("{scheme}://{address}{root_path}/v1"),
            (None, Some(socket)) => format!("unix:{}", socket.display()),
            (None, None) => "an unknown address".to_owned(),
        }
    }

    /// An address that a client on this machine can use.
    fn curl_target(&self) -> String {
        let Self { scheme, root_path, .. } = self;
        match (self.address, &self.socket) {
            (Some(address), _) if address.ip().is_unspecified() => {
                format!("{scheme}://localhost:{}{root_path}", address.port())
            }
            (Some(address), _) => format!("{scheme}://{address}{root_path}"),
            (None, socket) => {
                let socket = socket.as_ref().map(|socket| socket.display().to_string()).unwrap_or_default();
                format!("--unix-socket {socket} http://localhost{root_path}")
            }
        }
    }
}

fn advice(place: &Place, capacity: Capacity, columns: Option<usize>) -> String {
    let Capacity { threads, context, sequences, kv_bytes } = capacity;
    let threads = crate::format::counted(threads, "thread");
    let numbers = format!(
        "{threads}, {sequences} conversations at once of up to {} tokens each, at most {} of memory for them",
        grouped(context.into()),
        Bytes(kv_bytes)
    );
    let key = if place.has_key { " -H \"Authorization: Bearer $KEY\"" } else { "" };
    // Not broken: it is to be copied.
    let curl = format!(
        "  curl {}/v1/chat/completions{key} \\\n    -H 'Content-Type: application/json' \\\n    \
         -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"What is 17 + 25?\"}}]}}'\n",
        place.curl_target()
    );
    format!("{}\nTry:\n{curl}Ctrl-C stops.\n", wrap::wrapped(&numbers, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_copy_reaches_the_server() {
        let capacity = Capacity { threads: 1, context: 4096, sequences: 64, kv_bytes: 4 << 30 };
        let place = |address: Option<&str>, socket: Option<&str>| Place {
            scheme: "http",
            address: address.map(|text| text.parse().expect("an address")),
            socket: socket.map(PathBuf::from),
            root_path: String::new(),
            has_key: socket.is_some(),
        };
        for (place, url, target) in [
            (
                place(Some("127.0.0.1:8000"), None),
                "http://127.0.0.1:8000/v1",
                "curl http://127.0.0.1:8000/v1/chat",
            ),
            (place(Some("0.0.0.0:80"), None), "http://0.0.0.0:80/v1", "curl http://localhost:80/v1/chat"),
            (
                place(None, Some("/run/x")),
                "unix:/run/x",
                "curl --unix-socket /run/x http://localhost/v1/chat",
            ),
        ] {
            assert_eq!(place.url(), url);
            let text = advice(&place, capacity, Some(40));
            assert!(text.contains(target), "{text}");
            assert!(text.contains("1 thread, 64 conversations"), "{text}");
            assert_eq!(text.contains("$KEY"), place.has_key, "{text}");
        }
    }
}
