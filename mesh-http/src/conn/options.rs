//! What can be chosen about a connection, and why the defaults are what they are.

use std::time::Duration;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// How an HTTP/2 connection is run. [`Default`] is meant for services that talk within a region.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Http2Options {
    /// Bytes that the peer may send on one stream before its reader takes some. Default 2 MiB.
    ///
    /// A window bounds throughput at window divided by round trip: 2 MiB is 2 GB/s over 1 ms and 40 MB/s over 50 ms, so
    /// it stays out of the way inside a region. It is also what one stalled reader can make this process buffer. RFC
    /// 9113 stops at 2^31 - 1, and so do both windows.
    pub stream_window: u32,
    /// Bytes that the peer may send on all streams together. Default 5 MiB.
    ///
    /// More than two stream windows, so that one or two stalled readers do not hold up everyone else; and the most that
    /// the connection buffers.
    pub connection_window: u32,
    /// Whether windows grow with the measured bandwidth-delay product, from 64 KiB to 16 MiB, in place of the two sizes
    /// above. Default off: each measurement is a ping, and every data frame takes a lock. Worth it between regions.
    pub adaptive_window: bool,
    /// Bytes of decoded headers accepted in one response. Default 16 KiB. A peer that exceeds it has its stream reset.
    pub max_header_list: u32,
    /// Streams opened before the peer has said how many it permits. Default 100, the least that RFC 9113 (6.5.2)
    /// recommends to servers. With a lower limit at the peer some of the first requests are refused, unprocessed.
    pub initial_streams: usize,
    /// The most streams at a time, where the peer permits more. Default: as many as the peer permits. A lower limit spreads
    /// requests over more connections, and so over more cores of the peer.
    pub max_streams: usize,
    /// Bytes of one stream's request body that are taken ahead of what flow control lets out. Default 1 MiB.
    pub send_buffer: u32,
    /// Pings that tell a silent peer from a quiet one. Default none: a mesh sees failures in its requests, and many
    /// servers answer unexpected pings with GOAWAY (gRPC's `too_many_pings`).
    pub keep_alive: Option<KeepAlive>,
}

/// When to ping a quiet HTTP/2 peer, and how long to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time without a frame from the peer after which it is pinged.
    pub interval: Duration,
    /// Time for the answer; past it the connection is closed and its calls fail with
    /// [`ErrorKind::Silent`](super::ErrorKind::Silent).
    pub timeout: Duration,
    /// Whether to ping while no request is in flight. gRPC servers object to it by default.
    pub while_idle: bool,
}

/// How an HTTP/1.1 connection is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Http1Options {
    /// Headers accepted in one response. Default 100; more end the connection.
    pub max_headers: usize,
    /// Bytes buffered for one response head, and for a request body that the socket does not take. Default 400 KiB, and
    /// no less than 8 KiB is used.
    pub max_buffer: usize,
}

// === impl Http2Options ===

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            stream_window: 2 * MIB,
            connection_window: 5 * MIB,
            adaptive_window: false,
            max_header_list: 16 * KIB,
            initial_streams: 100,
            max_streams: usize::MAX,
            send_buffer: MIB,
            keep_alive: None,
        }
    }
}

// === impl Http1Options ===

impl Http1Options {
    /// hyper refuses a smaller buffer by panicking.
    pub(super) const MIN_BUFFER: usize = 8 * KIB as usize;
}

impl Default for Http1Options {
    fn default() -> Self {
        Self { max_headers: 100, max_buffer: 400 * KIB as usize }
    }
}
