//! The stream to a control plane, from the attempt to open it to its end.

use std::pin::Pin;

use crate::transport::{AdsStream, Heard, StreamError};

/// Where a stream stands. Dropping it closes the stream.
pub(super) enum StreamState {
    Down,
    Opening(Opening),
    Up(Box<AdsStream>),
}

pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Box<AdsStream>, StreamError>> + Send>>;

/// What the stream has to say.
pub(super) enum News {
    Opened(Result<Box<AdsStream>, StreamError>),
    Heard(Heard),
}

// === impl StreamState ===

impl StreamState {
    /// Waits for ever where there is nothing to wait for. Cancel safe.
    pub(super) async fn next(&mut self, listen: bool) -> News {
        match self {
            Self::Down => std::future::pending().await,
            Self::Opening(opening) => News::Opened(opening.as_mut().await),
            Self::Up(stream) => News::Heard(stream.next(listen).await),
        }
    }
}
