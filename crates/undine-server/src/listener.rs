//! Where connections come from: a TCP or Unix socket, with or without TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::tls::Tls;

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound socket. It is reachable, and says 503, before there is a model.
pub struct Listener {
    socket: Socket,
    tls: Option<Tls>,
}

enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A byte stream to a client, whatever carries it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Who is at the other end, in the extensions of every request of a connection: an address, or `None` for a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// A connection whose TLS handshake, if there is to be one, has not begun.
pub(crate) struct Incoming {
    stream: Box<dyn Stream>,
    tls: Option<Tls>,
    peer: Peer,
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { socket: Socket::Tcp(listener), tls: None }
    }
}

#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self { socket: Socket::Unix(listener), tls: None }
    }
}

impl Listener {
    /// The same socket, encrypted.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The address, of a TCP socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Socket::Unix(_) => None,
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Incoming {
        loop {
            match self.try_accept().await {
                Ok((stream, peer)) => return Incoming { stream, tls: self.tls.clone(), peer },
                // A connection that was gone before it was taken is no reason to wait.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("cannot accept connections: {error}; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Tokens are small packets: waiting for more of them would only delay each. It may fail harmlessly.
                drop(stream.set_nodelay(true));
                Ok((Box::new(stream), Peer(Some(address.ip().to_canonical()))))
            }
            #[cfg(unix)]
            Socket::Unix(listener) => Ok((Box::new(listener.accept().await?.0), Peer(None))),
        }
    }
}

impl Incoming {
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// The stream of bytes that carry HTTP.
    pub(crate) async fn open(self) -> io::Result<Box<dyn Stream>> {
        match self.tls {
            None => Ok(self.stream),
            Some(tls) => Ok(Box::new(tls.accept(self.stream).await?)),
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
