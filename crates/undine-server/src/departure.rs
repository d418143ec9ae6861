//! Clients that have closed their side of a connection: those who left, and those who only have nothing more
//! to say.
//!
//! Both look the same until something is written: who is there takes it, who is not answers with a reset. So
//! something is written that the client would get anyway: before there is an answer the first bytes of it,
//! which are always the same, and between the events of a stream a comment. An encrypted connection that ends
//! without an answer is taken for one whose client left: there, closing one side alone is no custom.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::Interest;

use crate::progress::{Phase, Progress};
use crate::socket::Socket;

/// How often to look again while nothing tells of a change: bytes wait to be read, or the request is not
/// complete.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// From the first sign of life to the second; each further one takes twice as long.
const SIGN_PAUSE: Duration = Duration::from_secs(1);
/// Longest time between two.
const SIGN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest rest of a request that is read when it has been answered.
const REST_BYTES_MAX: usize = 64 << 20;
/// How long it may take. A client that sends on and on is cut off then.
const REST_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of it is read at once.
const REST_BUFFER_BYTES: usize = 16 << 10;

/// What a client may find out about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signs {
    /// Something may be written to see whether it is there.
    Possible,
    /// Nothing can be written but through encryption.
    Impossible,
}

/// Resolves when the client is gone.
pub(crate) async fn client_gone(socket: &Socket, progress: &Progress, signs: Signs) {
    if !wait_for_end_of_requests(socket).await {
        return;
    }
    let mut sign_pause = SIGN_PAUSE;
    loop {
        if has_failed(socket).await {
            return;
        }
        let pause = match (progress.phase(), signs) {
            (Phase::Thinking | Phase::Answering, Signs::Impossible) => return,
            (Phase::Thinking, Signs::Possible) => {
                if let Some(byte) = progress.next_ahead() {
                    match socket.try_write(&[byte]) {
                        Ok(_) => progress.went_ahead(),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                sign_pause
            }
            (Phase::Answering, Signs::Possible) => {
                progress.want_comment();
                // The connection is looked at again in between.
                tokio::task::yield_now().await;
                sign_pause
            }
            // The connection itself finds its end there.
            (Phase::Head | Phase::Body | Phase::Ending, _) => LOOK_AGAIN,
        };
        if pause != LOOK_AGAIN {
            sign_pause = (2 * sign_pause).min(SIGN_PAUSE_MAX);
        }
        tokio::select! {
            _ = socket.ready(Interest::ERROR) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether the client has closed its side alone, once it has; `false` if the connection is broken.
async fn wait_for_end_of_requests(socket: &Socket) -> bool {
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) if ready.is_error() => return false,
            Ok(ready) if ready.is_read_closed() => return true,
            Ok(_) => match socket.peek() {
                Ok(0) => return true,
                // Whether the end comes after them shows only when it does.
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                // They have been read meanwhile.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            },
            Err(_) => return false,
        }
    }
}

/// Whether nothing more can be written. A socket that can be read from, if only its end, is ready at once.
async fn has_failed(socket: &Socket) -> bool {
    let all = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
    socket.ready(all).await.is_ok_and(|ready| ready.is_error() || ready.is_write_closed())
}

/// Reads what a client still sends that has been answered already. To close with bytes unread would be a
/// reset, which takes the answer from it.
pub(crate) async fn take_rest(socket: &Socket) {
    // The client may be gone, which is as well.
    drop(socket.shut_down_writing());
    let read = async {
        let mut buffer = vec![0; REST_BUFFER_BYTES];
        let mut left = REST_BYTES_MAX;
        while left > 0 && socket.ready(Interest::READABLE).await.is_ok() {
            match socket.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    drop(tokio::time::timeout(REST_TIMEOUT, read).await);
}
