//! The token in a file that a stream shows to its control plane (`jwt_token_file`, gRFC A97).
//!
//! A token that is read is used until 30 s before it expires, by the `exp` that it holds; whether it is genuine is
//! the server's to check. From a minute before that on, each new stream reads the file again, and goes by the token
//! of before where that fails. gRPC lets such a stream have the old token and reads on the side; a stream to a
//! control plane lasts for hours, and should begin with the better one. A token that the server refuses is forgotten,
//! so that one that has taken its place in the file is not kept waiting until the other expires.
//!
//! Where there is no token to be had, the file is left alone for a while, ever longer, and the error of the last
//! attempt stands for it. Nothing is read unless a stream is to be opened.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderValue;
use mesh_http::files;
use serde_json::Value;
use tokio::{task, time::Instant};

/// A token that is read from a file when it is needed.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    token: Option<Token>,
    /// Set by an attempt that brought no token, cleared by one that did.
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Token {
    /// What the stream shows. Marked as sensitive, so that nothing prints it.
    header: HeaderValue,
    /// When it is no longer used.
    end: SystemTime,
}

#[derive(Debug)]
struct Failure {
    error: TokenError,
    /// When the file is read again.
    until: Instant,
    /// The wait after the next failure.
    next: Duration,
}

/// Why there is no token.
#[derive(Debug, Clone)]
pub(crate) enum TokenError {
    /// The file cannot be read.
    Read { path: PathBuf, source: Arc<io::Error> },
    /// What is in the file is no token whose end can be told.
    Malformed { path: PathBuf, reason: &'static str },
    /// The token in the file is out of date.
    Expired { path: PathBuf },
}

/// For clocks that differ, and for the time that the server takes (gRFC A97).
const MARGIN: Duration = Duration::from_secs(30);

/// How long before its end a token is looked for anew (gRFC A97).
const AHEAD: Duration = Duration::from_secs(60);

/// The waits between attempts that fail: those of gRPC's connections.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(120);

/// A token is some kilobytes; what is larger is another file.
const MAX_SIZE: u64 = 64 * 1024;

/// Tokens are written without padding. One with it does no harm.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

// === impl TokenFile ===

impl TokenFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), held: Mutex::default() }
    }

    /// What a stream that begins now shows, as `authorization`. Cancel safe: an attempt that is given up counts for
    /// nothing.
    pub(crate) async fn header(&self) -> Result<HeaderValue, TokenError> {
        if let Some(known) = self.lock().known(SystemTime::now(), Instant::now()) {
            return known;
        }
        let path = self.path.clone();
        let read = task::spawn_blocking(move || read(&path));
        let read = read.await.unwrap_or_else(|error| {
            Err(TokenError::Read { path: self.path.clone(), source: Arc::new(io::Error::other(error)) })
        });
        self.lock().take(read, &self.path, SystemTime::now(), Instant::now())
    }

    /// The server did not believe what was shown. The next stream reads the file.
    pub(crate) fn refused(&self) {
        self.lock().token = None;
    }

    /// Nothing that holds the lock panics, and should it, what is held is whole.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Held ===

impl Held {
    /// What needs no look into the file.
    fn known(&self, now: SystemTime, instant: Instant) -> Option<Result<HeaderValue, TokenError>> {
        let token = self.token.as_ref();
        if let Some(token) = token.filter(|token| now + AHEAD < token.end) {
            return Some(Ok(token.header.clone()));
        }
        let failure = self.failure.as_ref().filter(|failure| instant < failure.until)?;
        Some(self.usable(now).ok_or_else(|| failure.error.clone()))
    }

    /// The outcome of a look into the file.
    fn take(
        &mut self,
        read: Result<Token, TokenError>,
        path: &Path,
        now: SystemTime,
        instant: Instant,
    ) -> Result<HeaderValue, TokenError> {
        let expired = || TokenError::Expired { path: path.to_owned() };
        match read.and_then(|token| if now < token.end { Ok(token) } else { Err(expired()) }) {
            Ok(token) => {
                self.failure = None;
                Ok(self.token.insert(token).header.clone())
            }
            Err(error) => {
                let wait = self.failure.take().map_or(FIRST_WAIT, |failure| failure.next);
                let next = wait.mul_f64(1.6).min(LAST_WAIT);
                self.failure = Some(Failure { error: error.clone(), until: instant + wait, next });
                self.usable(now).ok_or(error)
            }
        }
    }

    fn usable(&self, now: SystemTime) -> Option<HeaderValue> {
        self.token.as_ref().filter(|token| now < token.end).map(|token| token.header.clone())
    }
}

fn read(path: &Path) -> Result<Token, TokenError> {
    let bytes = files::read(path, MAX_SIZE)
        .map_err(|source| TokenError::Read { path: path.to_owned(), source: Arc::new(source) })?;
    parse(&bytes).map_err(|reason| TokenError::Malformed { path: path.to_owned(), reason })
}

/// A JSON Web Token (RFC 7519) as far as its end goes: `header.payload.signature`, of which the payload says when.
fn parse(bytes: &[u8]) -> Result<Token, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?.trim();
    let mut parts = text.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("it does not have three parts");
    };
    let payload = BASE64.decode(payload).map_err(|_| "its payload is not base64url")?;
    let payload: Value = serde_json::from_slice(&payload).map_err(|_| "its payload is not JSON")?;
    let seconds = payload.get("exp").and_then(Value::as_f64).ok_or("it has no `exp`")?;
    let expires = Duration::try_from_secs_f64(seconds).ok().and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    let end = expires.and_then(|expires| expires.checked_sub(MARGIN)).ok_or("its `exp` is out of range")?;
    let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| "it cannot stand in a header")?;
    header.set_sensitive(true);
    Ok(Token { header, end })
}

// === impl TokenError ===

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "the token file {} cannot be read", path.display()),
            Self::Malformed { path, reason } => write!(f, "there is no JSON Web Token in {}: {reason}", path.display()),
            Self::Expired { path } => write!(f, "the token in {} has expired, or is about to", path.display()),
        }
    }
}

impl StdError for TokenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Malformed { .. } | Self::Expired { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn written(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64.encode(payload).trim_end_matches('='))
    }

    /// A token that expires so long after the epoch.
    fn until(seconds: u64) -> Token {
        parse(written(&format!(r#"{{"exp": {seconds}}}"#)).as_bytes()).expect("a token")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn failed() -> TokenError {
        TokenError::Malformed { path: PathBuf::from("token"), reason: "it is another file" }
    }

    #[test]
    fn token_is_shown_as_it_stands_in_the_file_and_never_printed() {
        let text = written(r#"{"aud": "istio-ca", "exp": 1000}"#);
        let token = parse(format!("\n{text}\n").as_bytes()).expect("a token");
        assert_eq!(token.header.to_str().expect("text"), format!("Bearer {text}"));
        assert!(!format!("{token:?}").contains(&text));
        assert_eq!(token.end, at(970), "30 s are for clocks that differ");
    }

    #[test]
    fn what_is_no_token_says_why() {
        for (text, reason) in [
            (String::new(), "three parts"),
            ("a.b".to_owned(), "three parts"),
            ("a.b.c.d".to_owned(), "three parts"),
            ("a.?.c".to_owned(), "base64url"),
            ("a.AAAA.c".to_owned(), "not JSON"),
            (written("{}"), "no `exp`"),
            (written(r#"{"exp": "tomorrow"}"#), "no `exp`"),
            (written(r#"{"exp": -1}"#), "out of range"),
            (written(r#"{"exp": 1e300}"#), "out of range"),
            (format!("a\u{7f}{}", written(r#"{"exp": 100}"#)), "in a header"),
        ] {
            let found = parse(text.as_bytes()).map(|_| ()).expect_err("refused");
            assert!(found.contains(reason), "{found} of {:.40}", text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_kept_until_a_minute_before_its_end_and_used_until_its_end() {
        let (path, now) = (Path::new("token"), Instant::now());
        let mut held = Held::default();
        assert!(held.known(at(0), now).is_none(), "nothing is known");
        held.take(Ok(until(1000)), path, at(0), now).expect("taken");
        assert!(held.known(at(909), now).is_some());
        assert!(held.known(at(910), now).is_none(), "time to look for another");
        assert!(held.take(Err(failed()), path, at(910), now).is_ok(), "there is none, and this one will do");
        assert!(held.known(at(911), now).expect("not looked for again at once").is_ok());
        assert!(held.known(at(970), now).expect("nor now").is_err());
        let renewed = held.take(Ok(until(2000)), path, at(970), now + SECOND).expect("taken");
        assert_eq!(renewed, until(2000).header);
        assert!(held.known(at(1900), now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn file_without_a_token_is_tried_ever_more_rarely_until_there_is_one() {
        let (path, mut now) = (Path::new("token"), Instant::now());
        let mut held = Held::default();
        let mut waits = Vec::new();
        for _ in 0..14 {
            held.take(Err(failed()), path, at(0), now).expect_err("there is none");
            let until = held.failure.as_ref().expect("it failed").until;
            assert!(held.known(at(0), until - SECOND / 1000).expect("not yet").is_err());
            assert!(held.known(at(0), until).is_none(), "now");
            waits.push(until - now);
            now = until;
        }
        assert_eq!((waits[0], waits[13]), (SECOND, 120 * SECOND));
        assert!(waits.is_sorted());
        held.take(Ok(until(100)), path, at(0), now).expect("taken");
        held.take(Err(failed()), path, at(80), now).expect_err("it has expired");
        assert_eq!(held.failure.as_ref().expect("it failed").until - now, SECOND, "and from the beginning");
    }

    #[tokio::test]
    async fn token_that_is_refused_makes_room_for_what_the_file_holds_now() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let file = TokenFile::new(&path);
        let put = |name: &str| {
            let text = written(&format!(r#"{{"sub": "{name}", "exp": 9999999999}}"#));
            std::fs::write(&path, &text).expect("writable");
            format!("Bearer {text}")
        };
        let before = put("before");
        assert_eq!(file.header().await.expect("a token"), before);
        let after = put("after");
        assert_eq!(file.header().await.expect("a token"), before, "it is good for long");
        file.refused();
        assert_eq!(file.header().await.expect("a token"), after);
    }

    #[tokio::test]
    #[cfg(unix)]
    async fn what_is_no_file_or_too_large_for_a_token_is_refused_and_holds_nobody_up() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let directory = tempfile::tempdir().expect("a directory");
        let (fifo, large) = (directory.path().join("fifo"), directory.path().join("large"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        std::fs::File::create(&large).and_then(|file| file.set_len(MAX_SIZE + 1)).expect("made");
        for (path, kind) in [
            (fifo, io::ErrorKind::InvalidInput),
            (PathBuf::from("/dev/zero"), io::ErrorKind::InvalidInput),
            (large, io::ErrorKind::FileTooLarge),
        ] {
            let header = tokio::time::timeout(60 * SECOND, async { TokenFile::new(&path).header().await });
            let error = header.await.expect("nothing is waited for").expect_err("no token");
            let TokenError::Read { source, .. } = error else { panic!("{error:?}") };
            assert_eq!(source.kind(), kind, "{}", path.display());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn token_that_is_out_of_date_when_it_is_read_is_not_shown() {
        let mut held = Held::default();
        let error = held.take(Ok(until(1000)), Path::new("token"), at(970), Instant::now()).expect_err("expired");
        assert!(matches!(error, TokenError::Expired { .. }));
    }
}
