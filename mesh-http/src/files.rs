//! Reads files that somebody else puts there: certificates, tokens, bootstraps, what an earlier run has kept.
//!
//! A path comes from configuration and may lead anywhere. A FIFO would hold its reader until somebody writes to it, and
//! what has no end would fill memory. So regular files alone are read, and none further than a limit.
//!
//! All of it blocks, as files do. It is for this crate and mesh-xds-client, and no promise to others.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::Path,
};

/// Opens a regular file for reading.
///
/// # Errors
///
/// When it cannot be opened, or is something else than a regular file (`InvalidInput`).
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    wait_for_nobody(&mut options);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// All that is left of a file.
///
/// # Errors
///
/// When it cannot be read, or there are more than `limit` bytes (`FileTooLarge`), of which no more than one is read.
pub fn read_to_end(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(limit);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // Files grow, and some do not know their length: what counts is what is read.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The contents of a regular file.
///
/// # Errors
///
/// Those of [`open`] and [`read_to_end`].
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_to_end(open(path)?, limit)
}

/// A FIFO that is opened for reading waits for somebody who writes, before anybody can see that it is one.
#[cfg(unix)]
fn wait_for_nobody(options: &mut OpenOptions) {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;

    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
}

#[cfg(not(unix))]
fn wait_for_nobody(_: &mut OpenOptions) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_up_to_its_limit_and_not_beyond() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "12345678").expect("written");
        assert_eq!(read(&path, 8).expect("read"), b"12345678");
        assert_eq!(read(&path, 7).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
        let missing = read(&directory.path().join("other"), 8);
        assert_eq!(missing.expect_err("missing").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn file_that_says_that_it_is_empty_and_is_not_is_limited_as_well() {
        let path = Path::new("/proc/self/status");
        assert_eq!(std::fs::metadata(path).expect("Linux has it").len(), 0);
        assert!(!read(path, 1 << 20).expect("read").is_empty());
        assert_eq!(read(path, 8).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_no_regular_file_is_refused_at_once() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        for path in [&*fifo, directory.path(), Path::new("/dev/zero")] {
            assert_eq!(read(path, 8).expect_err("refused").kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
    }
}
