//! The socket of a connection, shared by the stream that carries HTTP, the watch over the client, and the
//! farewell.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Runs the same code on either kind.
macro_rules! on {
    ($socket:expr, $stream:ident => $work:expr) => {
        match $socket {
            Socket::Tcp($stream) => $work,
            #[cfg(unix)]
            Socket::Unix($stream) => $work,
        }
    };
}

impl Socket {
    /// Waits for one of these to hold.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        on!(self, stream => stream.ready(interest).await)
    }

    /// Writes what can be written at once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        on!(self, stream => stream.try_write(bytes))
    }

    /// Reads what is there.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        on!(self, stream => stream.try_read(buffer))
    }

    /// Looks for bytes without taking them; what the runtime believes of the socket is right afterwards.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        on!(self, stream => stream.try_io(Interest::READABLE, || {
            socket2::SockRef::from(stream).peek(&mut [MaybeUninit::uninit()])
        }))
    }

    /// Says that nothing more will be written. The peer can still read what was.
    pub(crate) fn shut_down_writing(&self) -> io::Result<()> {
        on!(self, stream => socket2::SockRef::from(stream).shutdown(Shutdown::Write))
    }
}

/// A stream on a socket that others hold too.
pub(crate) struct SharedStream(pub(crate) Arc<Socket>);

/// Tries again whenever the socket says that it is ready, and is not.
macro_rules! when_ready {
    ($ready:expr, $attempt:expr) => {
        loop {
            ready!($ready)?;
            match $attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    };
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on!(&*self.0, stream => when_ready!(stream.poll_read_ready(context), stream.try_read_buf(buffer).map(drop)))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on!(&*self.0, stream => when_ready!(stream.poll_write_ready(context), stream.try_write(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on!(&*self.0, stream => when_ready!(stream.poll_write_ready(context), stream.try_write_vectored(parts)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shut_down_writing())
    }
}
