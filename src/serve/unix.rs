//! Unix sockets: files that clients of this machine connect to.
//!
//! A socket is made under a name beside its own, gets its permissions, listens, and only then takes its name: whoever
//! finds it finds it as it is to be, and one that a dead process left is replaced at that moment.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use tokio::net::UnixSocket;

use super::listeners::BACKLOG;

/// Where a socket can be made.
pub struct Place {
    path: PathBuf,
    mode: u32,
}

impl Place {
    /// Finds out before anything is opened: whether somebody listens there, and whether we may make a socket at all.
    pub fn take(path: &Path, mode: u32) -> io::Result<Place> {
        let place = Place { path: path.to_owned(), mode };
        place.check().map_err(|error| place.told(&error))?;
        Ok(place)
    }

    fn check(&self) -> io::Result<()> {
        self.is_free()?;
        self.bind()?;
        fs::remove_file(self.aside())
    }

    /// From here on clients are heard, until the file is dropped. Of this thread's reactor it is only for a moment.
    pub fn listen(self) -> io::Result<(UnixListener, SocketFile)> {
        self.replace().map_err(|error| self.told(&error))
    }

    fn replace(&self) -> io::Result<(UnixListener, SocketFile)> {
        // A start takes its time.
        self.is_free()?;
        let listener = self.bind()?.listen(BACKLOG)?.into_std()?;
        let made = fs::metadata(self.aside())?;
        fs::rename(self.aside(), &self.path)?;
        Ok((listener, SocketFile { path: self.path.clone(), id: (made.dev(), made.ino()) }))
    }

    fn is_free(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else than a socket"));
            }
            Ok(_) => {}
        }
        match UnixStream::connect(&self.path) {
            // Nobody has listened since whoever made it is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        }
    }

    /// Under its other name, with its permissions; nobody can connect before it listens.
    fn bind(&self) -> io::Result<UnixSocket> {
        let (socket, aside) = (UnixSocket::new_stream()?, self.aside());
        // Of a process with our number that was killed in this moment: in a container they all have the same.
        if fs::symlink_metadata(&aside).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&aside)?;
        }
        socket.bind(&aside)?;
        fs::set_permissions(&aside, Permissions::from_mode(self.mode))?;
        Ok(socket)
    }

    /// Of this process alone.
    fn aside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", process::id()));
        name.into()
    }

    fn told(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("mqtt.listener = \"unix:{}\": {error}", self.path.display()))
    }
}

/// The name of a socket that listens. Dropped, it is removed, unless another process has taken it.
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id) {
            // One that stays is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}
