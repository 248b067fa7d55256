//! A file that is there whole or not at all, and that others can neither read nor write.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mesh_http::files;

use super::Unusable;

/// The largest file that is read; a mesh of 100,000 endpoints makes one of 20 MB.
const MAX: u64 = 1 << 30;

/// The whole of a file, or nothing where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Bytes>, Unusable> {
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unusable::Read(error)),
    };
    // Of the file that is open, whatever has taken its place meanwhile.
    check_rights(&file.metadata().map_err(Unusable::Read)?)?;
    let bytes = files::read_to_end(file, MAX).map_err(Unusable::Read)?;
    Ok(Some(bytes.into()))
}

/// Writes a file beside its place, sees it on disk, and has it take the place of the one before.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write_new(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not be there; what went wrong before is worth more.
        let _ = fs::remove_file(&beside);
    }
    written?;
    if let Err(error) = synchronise_directory(path) {
        // Some file systems have no notion of it. The file is in its place, and a crash may bring back the one before.
        tracing::debug!(path = %path.display(), %error, "the directory of the cache file is not synchronised");
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a process of the same number left behind when it was killed has whatever mode it has, and may be a link.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private(&mut options);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Each process has a name of its own, so that two who share a file by mistake do not write into one another's.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut name = OsString::from(name);
    name.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(name))
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

#[cfg(unix)]
fn check_rights(about: &fs::Metadata) -> Result<(), Unusable> {
    use std::os::unix::fs::MetadataExt;

    check(about.uid(), about.mode() & 0o777, rustix::process::geteuid().as_raw())
}

/// Whether nobody but this process, which is `own`, and root can have written a file of this owner and mode.
#[cfg(unix)]
fn check(owner: u32, mode: u32, own: u32) -> Result<(), Unusable> {
    const ROOT: u32 = 0;
    const WRITE_BY_OTHERS: u32 = 0o022;
    if owner != own && owner != ROOT {
        return Err(Unusable::OwnedByAnother { owner });
    }
    if mode & WRITE_BY_OTHERS != 0 {
        return Err(Unusable::WritableByOthers { mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_rights(_: &fs::Metadata) -> Result<(), Unusable> {
    Ok(())
}

/// A rename is on disk when its directory is.
#[cfg(unix)]
fn synchronise_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn synchronise_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn file_is_its_owners_alone_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        fs::write(&path, "before").expect("written");
        fs::write(beside(&path).expect("a name"), "left behind").expect("written");
        replace(&path, b"after").expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"after");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 1);
    }

    #[test]
    fn file_before_stays_where_the_new_one_cannot_be_put() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        fs::create_dir_all(path.join("in the way")).expect("made");
        replace(&path, b"after").expect_err("a directory is in its place");
        assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 1, "and nothing is left beside it");
    }

    #[test]
    fn file_that_others_may_write_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        assert!(matches!(read(&path), Ok(None)));
        fs::write(&path, "anybody's").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).expect("set");
        assert!(matches!(read(&path), Err(Unusable::WritableByOthers { mode: 0o646 })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert_eq!(read(&path).expect("read").as_deref(), Some(&b"anybody's"[..]));
    }

    #[test]
    fn file_of_another_user_than_this_one_and_root_is_not_read() {
        const OWN: u32 = 1337;
        assert!(check(OWN, 0o600, OWN).is_ok());
        assert!(check(0, 0o644, OWN).is_ok());
        assert!(matches!(check(1000, 0o600, OWN), Err(Unusable::OwnedByAnother { owner: 1000 })));
        assert!(matches!(check(OWN, 0o600, 0), Err(Unusable::OwnedByAnother { owner: OWN })));
        // For real where this may give files away.
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        fs::write(&path, "another's").expect("written");
        if std::os::unix::fs::chown(&path, Some(OWN), None).is_ok() {
            assert!(matches!(read(&path), Err(Unusable::OwnedByAnother { owner: OWN })));
        }
    }

    #[test]
    fn what_is_no_file_is_not_read_and_holds_nobody_up() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        for path in [&*path, directory.path()] {
            assert!(matches!(read(path), Err(Unusable::Read(error)) if error.kind() == io::ErrorKind::InvalidInput));
        }
    }
}
