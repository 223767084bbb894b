//! Development certificates, made by the binary under test.

use crate::broker::binary;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that `millstream certs` filled.
#[derive(Debug, Clone)]
pub struct Certs {
    folder: PathBuf,
}

impl Certs {
    /// Makes a CA, a server's and a client's certificate in this folder.
    #[track_caller]
    pub fn make(folder: &Path) -> Certs {
        let certs = Certs { folder: folder.to_owned() };
        certs.run(&[]);
        certs
    }

    /// A folder that has been filled.
    pub fn at(folder: &Path) -> Certs {
        Certs { folder: folder.to_owned() }
    }

    /// Makes a client's certificate for this user.
    #[track_caller]
    pub fn client(&self, name: &str) {
        self.run(&["--client", name]);
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let output = Command::new(binary()).arg("certs").arg(&self.folder).args(arguments).output();
        let output = output.expect("the binary is built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
