//! Where connections come from: a TCP or Unix socket, with or without TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::socket::{SharedStream, Socket};
use crate::tls::Tls;

/// A bound socket. It is reachable, and says 503, before there is a model.
pub struct Listener {
    socket: Bound,
    tls: Option<Tls>,
}

enum Bound {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A byte stream to a client, whatever carries it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Who is at the other end, in the extensions of every request of a connection: an address, or `None` for a
/// Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// A connection whose TLS handshake, if there is to be one, has not begun.
pub(crate) struct Incoming {
    pub(crate) socket: Arc<Socket>,
    tls: Option<Tls>,
    peer: Peer,
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { socket: Bound::Tcp(listener), tls: None }
    }
}

#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self { socket: Bound::Unix(listener), tls: None }
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
            Bound::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Bound::Unix(_) => None,
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// Those of the process, which is out of file descriptors or memory, and not of a connection.
    pub(crate) async fn accept(&self) -> io::Result<Incoming> {
        loop {
            match self.try_accept().await {
                Ok((socket, peer)) => {
                    return Ok(Incoming { socket: Arc::new(socket), tls: self.tls.clone(), peer });
                }
                // A connection that was gone before it was taken is no reason to wait.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.socket {
            Bound::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Tokens are small packets: waiting for more of them would only delay each. It may fail
                // harmlessly.
                drop(stream.set_nodelay(true));
                Ok((Socket::Tcp(stream), Peer(Some(address.ip().to_canonical()))))
            }
            #[cfg(unix)]
            Bound::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), Peer(None))),
        }
    }
}

impl Incoming {
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether bytes can only be written through the stream, not on the socket itself.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The stream of bytes that carry HTTP.
    pub(crate) async fn open(self) -> io::Result<Box<dyn Stream>> {
        let stream = SharedStream(self.socket);
        match self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => Ok(Box::new(tls.accept(Box::new(stream)).await?)),
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
