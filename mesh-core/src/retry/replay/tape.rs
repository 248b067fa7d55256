//! The shared, append-only buffer behind a streaming request body, and the cursors that read it.
//!
//! There are two small locks. One guards the tape and is held across a poll of the user's body and nothing else. The other
//! guards the wakers, so that the user's body may wake us from within its own poll.

use std::{
    collections::VecDeque,
    error::Error as StdError,
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::{
    deadline::Progress,
    outcome::{BoxError, Failed, Failure, FailureKind, Sent},
};

/// Who reads: the number of an attempt among all that were started.
pub(super) type Reader = u32;

/// A frame whose clone copies no data.
#[derive(Clone)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The source, and what it has given that is still kept.
pub(super) struct Tape<B> {
    source: B,
    hint: SizeHint,
    state: State,
    frames: VecDeque<Piece>,
    /// Frames that were let go from the front of `frames`.
    gone: usize,
    /// Bytes of data in `frames`.
    kept: usize,
    limit: usize,
    /// Who may read.
    readers: Vec<Reader>,
    /// Told of each frame that is read, by anyone, once somebody wants to know.
    progress: Option<Progress>,
    /// Set when no more is kept; from then on `readers` is whoever reads to the end.
    closed: bool,
}

/// What can still come from the source.
enum State {
    Open,
    Ended,
    /// The error is taken by the first who reads that far.
    Failed(Option<BoxError>),
}

/// What all who use a tape share.
struct Shared<B> {
    tape: Mutex<Tape<B>>,
    waiting: Arc<Waiting>,
}

/// Readers that wait for the source. It wakes them all, since the one who asked last may be held up by its peer and never
/// ask again.
#[derive(Default)]
struct Waiting(Mutex<Vec<(Reader, Waker)>>);

/// The recorder's end of a tape; dropping it closes the tape in favour of the latest reader.
pub(super) struct TapeHandle<B>(Arc<Shared<B>>);

/// One reader's place on a tape.
pub(super) struct Cursor<B> {
    shared: Arc<Shared<B>>,
    reader: Reader,
    /// The next frame, counted from the beginning of the body.
    next: usize,
    /// Bytes read.
    read: u64,
    ended: bool,
}

/// Told to an attempt that was given up and still reads.
#[derive(Debug)]
struct Superseded;

/// A user's body has failed.
pub(super) fn user_error(error: impl Into<BoxError>) -> BoxError {
    Failed::because(Failure::new(FailureKind::RequestBody, Sent::Maybe), error).into()
}

// A panic of the user's body must not turn into others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Piece ===

impl Piece {
    /// A frame of the user's body, whose data is shared where it is `Bytes` and copied where it is not.
    pub(super) fn of_frame<D: Buf, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Self, BoxError> {
        let frame = frame.map_err(user_error)?;
        let frame = match frame.into_data() {
            Ok(mut data) => return Ok(Self::Data(data.copy_to_bytes(data.remaining()))),
            Err(frame) => frame,
        };
        Ok(Self::Trailers(frame.into_trailers().unwrap_or_default()))
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

// === impl Tape ===

impl<B: Body + Unpin> Tape<B> {
    pub(super) const fn new(source: B, hint: SizeHint, limit: usize) -> Self {
        Self {
            source,
            hint,
            state: State::Open,
            frames: VecDeque::new(),
            gone: 0,
            kept: 0,
            limit,
            readers: Vec::new(),
            progress: None,
            closed: false,
        }
    }

    /// With what a poll of the source gave before anyone read.
    pub(super) fn with(mut self, polled: Poll<Option<Result<Piece, BoxError>>>) -> Self {
        if let Poll::Ready(piece) = polled
            && let Some(piece) = self.note(piece)
        {
            self.closed = self.kept + piece.len() > self.limit;
            self.push(piece);
        }
        self
    }

    /// Notes an end or an error; hands on a frame.
    fn note(&mut self, given: Option<Result<Piece, BoxError>>) -> Option<Piece> {
        match given {
            Some(Ok(piece)) => {
                if self.source.is_end_stream() {
                    self.state = State::Ended;
                }
                Some(piece)
            }
            Some(Err(error)) => {
                self.state = State::Failed(Some(error));
                None
            }
            None => {
                self.state = State::Ended;
                None
            }
        }
    }
}

impl<B> Tape<B> {
    fn end(&self) -> usize {
        self.gone + self.frames.len()
    }

    fn push(&mut self, piece: Piece) {
        self.kept += piece.len();
        self.frames.push_back(piece);
    }

    /// The frame at `next`, which is moved out where nobody else will read it.
    fn kept(&mut self, next: usize) -> Option<Piece> {
        if !self.closed {
            return self.frames.get(next.checked_sub(self.gone)?).cloned();
        }
        while self.gone < next {
            self.pop()?;
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<Piece> {
        let piece = self.frames.pop_front()?;
        self.gone += 1;
        self.kept -= piece.len();
        Some(piece)
    }

    /// Whether one more attempt could read all of it.
    fn is_whole(&self) -> bool {
        !self.closed && !matches!(self.state, State::Failed(_))
    }

    /// Lets `reader` go on alone, and keeps nothing more.
    fn close(&mut self, reader: Option<Reader>) {
        self.closed = true;
        self.readers.retain(|other| Some(*other) == reader);
        if self.readers.is_empty() {
            self.gone = self.end();
            self.kept = 0;
            self.frames = VecDeque::new();
        }
    }
}

// === impl TapeHandle ===

impl<B> TapeHandle<B> {
    pub(super) fn new(tape: Tape<B>) -> Self {
        Self(Arc::new(Shared { tape: Mutex::new(tape), waiting: Arc::default() }))
    }

    /// A place at the beginning, if the beginning is still there. A tape that was closed before anybody read has one reader.
    pub(super) fn cursor(&self, reader: Reader) -> Option<Cursor<B>> {
        let mut tape = lock(&self.0.tape);
        if tape.closed && (tape.gone > 0 || !tape.readers.is_empty() || tape.frames.is_empty()) {
            return None;
        }
        tape.readers.push(reader);
        drop(tape);
        Some(Cursor { shared: self.0.clone(), reader, next: 0, read: 0, ended: false })
    }

    /// Stops `reader`, if another could read all of it instead.
    pub(super) fn retire(&self, reader: Reader) -> bool {
        let mut tape = lock(&self.0.tape);
        let whole = tape.is_whole();
        if whole {
            tape.readers.retain(|other| *other != reader);
        }
        drop(tape);
        self.0.waiting.wake_all();
        whole
    }

    pub(super) fn progress(&self) -> Progress {
        lock(&self.0.tape).progress.get_or_insert_default().clone()
    }

    /// Lets `reader` go on alone.
    pub(super) fn commit(&self, reader: Reader) {
        lock(&self.0.tape).close(Some(reader));
        self.0.waiting.wake_all();
    }
}

impl<B> Drop for TapeHandle<B> {
    fn drop(&mut self) {
        let mut tape = lock(&self.0.tape);
        if !tape.closed {
            let latest = tape.readers.last().copied();
            tape.close(latest);
            drop(tape);
            self.0.waiting.wake_all();
        }
    }
}

// === impl Cursor ===

impl<B> Cursor<B> {
    /// Whether everything was read.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// What is left, by what the source said of itself at first.
    pub(super) fn size_hint(&self) -> SizeHint {
        let tape = lock(&self.shared.tape);
        let mut rest = SizeHint::new();
        if let Some(upper) = tape.hint.upper() {
            rest.set_upper(upper.saturating_sub(self.read));
        }
        rest.set_lower(tape.hint.lower().saturating_sub(self.read));
        rest
    }

    fn advance(&mut self, piece: Piece, tape: &mut Tape<B>) -> Frame<Bytes> {
        tape.progress.iter().for_each(Progress::note);
        self.next += 1;
        self.read += piece.len() as u64;
        self.ended = matches!(tape.state, State::Ended) && self.next == tape.end();
        piece.into_frame()
    }
}

impl<B> Cursor<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let shared = self.shared.clone();
        let mut tape = lock(&shared.tape);
        if !tape.readers.contains(&self.reader) {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        if let Some(piece) = tape.kept(self.next) {
            return Poll::Ready(Some(Ok(self.advance(piece, &mut tape))));
        }
        match &mut tape.state {
            State::Open => {}
            State::Ended => {
                self.ended = true;
                return Poll::Ready(None);
            }
            State::Failed(error) => {
                let error = error.take().unwrap_or_else(|| user_error(Superseded));
                return Poll::Ready(Some(Err(error)));
            }
        }
        // Registered before the source is asked, so that no wake falls in between.
        shared.waiting.register(self.reader, cx.waker());
        let waker = Waker::from(shared.waiting.clone());
        let polled = Pin::new(&mut tape.source).poll_frame(&mut Context::from_waker(&waker));
        let Poll::Ready(given) = polled.map(|frame| Some(Piece::of_frame(frame?))) else {
            return Poll::Pending;
        };
        let answer = self.take(given, &mut tape);
        drop(tape);
        // Others that waited find a frame, the end, or that they are out.
        shared.waiting.wake_others(self.reader);
        Poll::Ready(answer)
    }

    /// Reads what the source has just given, and keeps it for others where that is still done.
    fn take(
        &mut self,
        given: Option<Result<Piece, BoxError>>,
        tape: &mut Tape<B>,
    ) -> Option<Result<Frame<Bytes>, BoxError>> {
        let Some(piece) = tape.note(given) else {
            let State::Failed(error) = &mut tape.state else {
                self.ended = true;
                return None;
            };
            return error.take().map(Err);
        };
        if !tape.closed && tape.kept + piece.len() > tape.limit {
            let latest = tape.readers.last().copied();
            tape.close(latest);
        }
        if !tape.closed {
            tape.push(piece.clone());
            return Some(Ok(self.advance(piece, tape)));
        }
        // It goes by way of the buffer, since an earlier reader may have fetched it for the latest one.
        tape.push(piece);
        if !tape.readers.contains(&self.reader) {
            return Some(Err(Superseded.into()));
        }
        let piece = tape.kept(self.next)?;
        Some(Ok(self.advance(piece, tape)))
    }
}

impl<B> Drop for Cursor<B> {
    // Most bodies have none: they are over before they begin.
    #[cold]
    fn drop(&mut self) {
        lock(&self.shared.tape).readers.retain(|other| *other != self.reader);
        self.shared.waiting.forget(self.reader);
    }
}

// === impl Waiting ===

impl Waiting {
    fn register(&self, reader: Reader, waker: &Waker) {
        let mut waiting = lock(&self.0);
        match waiting.iter_mut().find(|(other, _)| *other == reader) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.push((reader, waker.clone())),
        }
    }

    fn forget(&self, reader: Reader) {
        lock(&self.0).retain(|(other, _)| *other != reader);
    }

    /// Wakes all; none of them is woken under the lock.
    fn wake_all(&self) {
        let mut woken = mem::take(&mut *lock(&self.0));
        if woken.is_empty() {
            return;
        }
        for (_, waker) in woken.drain(..) {
            waker.wake();
        }
        let mut waiting = lock(&self.0);
        if waiting.capacity() == 0 {
            // The room is kept for the next wait.
            *waiting = woken;
        }
    }

    fn wake_others(&self, reader: Reader) {
        self.forget(reader);
        self.wake_all();
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

// === impl Superseded ===

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this attempt was given up")
    }
}

impl StdError for Superseded {}
