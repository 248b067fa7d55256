//! The streams to all control planes, each from the attempt to open it to its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    pace::{self, Pace},
    session::Session,
    transport::{AdsStream, Heard, StreamError, encode},
};

/// A stream or none for each control plane, by its place. Dropping them closes them.
pub(super) struct Streams {
    states: Vec<StreamState>,
    /// Who is listened to first, so that one that never stops talking does not keep the others from being heard.
    first: usize,
}

enum StreamState {
    Down,
    Opening(Opening),
    Up {
        stream: Box<AdsStream>,
        /// Whether it has no room and more answers wait for some than should. It is not listened to, so that there are no more.
        is_behind: bool,
    },
}

/// How many answers may wait for room in a stream that is listened to. A server that is busy sending reads them in its own time.
const MOST_UNSENT: usize = 16;

pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Box<AdsStream>, StreamError>> + Send>>;

/// What a stream has to say.
pub(super) enum News {
    /// It can take requests.
    Opened,
    Heard(Heard),
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(count: usize) -> Self {
        Self { states: (0..count).map(|_| StreamState::Down).collect(), first: 0 }
    }

    pub(super) fn open(&mut self, place: usize, opening: Opening) {
        self.states[place] = StreamState::Opening(opening);
    }

    pub(super) fn close(&mut self, place: usize) {
        self.states[place] = StreamState::Down;
    }

    /// Sends what a session has to say, as far as there is room, in slices.
    pub(super) async fn send(&mut self, place: usize, session: &mut Session) {
        let StreamState::Up { stream, is_behind } = &mut self.states[place] else { return };
        let mut pace = Pace::new();
        while let Some(room) = stream.room() {
            while !session.draft_request(pace::SLICE, Instant::now()) {
                pace.end_slice().await;
            }
            let Some(request) = session.poll_request(Instant::now()) else { break };
            room.send(encode(request, &mut pace).await);
        }
        // One that takes nothing any longer is listened to: it has an end to tell of.
        *is_behind = stream.is_full() && session.unsent_answers() > MOST_UNSENT;
    }

    /// Does the work of all connections until there is news of one. Responses are taken only where `listen` says so, and of nobody
    /// who leaves too many answers unread.
    ///
    /// Waits for ever where there is nothing to wait for. Cancel safe.
    pub(super) async fn next(&mut self, listen: bool) -> (usize, News) {
        std::future::poll_fn(|cx| self.poll_next(cx, listen)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, listen: bool) -> Poll<(usize, News)> {
        let count = self.states.len();
        for place in (self.first..count).chain(0..self.first) {
            if let Poll::Ready(news) = self.states[place].poll_next(cx, listen) {
                self.first = (place + 1) % count;
                return Poll::Ready((place, news));
            }
        }
        Poll::Pending
    }
}

// === impl StreamState ===

impl StreamState {
    fn poll_next(&mut self, cx: &mut Context<'_>, listen: bool) -> Poll<News> {
        let heard = match self {
            Self::Down => return Poll::Pending,
            Self::Up { stream, is_behind } => std::task::ready!(stream.poll_next(cx, listen && !*is_behind)),
            Self::Opening(opening) => match std::task::ready!(opening.as_mut().poll(cx)) {
                Ok(stream) => {
                    *self = Self::Up { stream, is_behind: false };
                    return Poll::Ready(News::Opened);
                }
                Err(error) => Heard::Ended(error),
            },
        };
        if matches!(heard, Heard::Ended(_)) {
            *self = Self::Down;
        }
        Poll::Ready(News::Heard(heard))
    }
}
