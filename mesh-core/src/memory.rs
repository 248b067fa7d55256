//! What the allocator puts off, done in time.

use std::hint::black_box;

/// More than any allocator keeps at hand among its small pieces.
const LARGE: usize = 2 * 1024;

/// Has the allocator see to what it has put off, for whoever lets go of thousands of small pieces in slices, at the end of each.
///
/// glibc lays freed pieces of up to 128 bytes aside, and merges all of them with their neighbours when the next block of more than
/// a KiB is asked for. After a configuration of some thousand clusters has been dropped that is milliseconds, which pass within
/// that one call, whoever makes it. So a block is asked for at the end of each slice, and given back: the work is the same, and each
/// slice bears its own. To allocators that put nothing off it is two calls.
pub fn settle() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}
