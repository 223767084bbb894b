//! A file system of a few MiB, in memory, mounted where only its holder's mount namespace has it: it needs root or
//! user namespaces, and nothing is left of it when its holder ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// It and its holder.
pub struct SmallDisk {
    holder: Child,
    path: PathBuf,
    _mounted_at: TempDir,
}

impl SmallDisk {
    /// One of this size.
    pub fn of(mebibytes: u32) -> SmallDisk {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
        let held = ways.iter().find_map(|flags| hold(flags, folder.path(), mebibytes));
        let holder = held.expect("a tmpfs can be mounted: by root, or where user namespaces are allowed");
        // Whoever may look into the holder sees what it sees.
        let path = format!("/proc/{}/root{}", holder.id(), folder.path().display());
        SmallDisk { holder, path: path.into(), _mounted_at: folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Bytes free on it.
    pub fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.path).expect("it is mounted");
        found.f_bavail * found.f_frsize
    }

    /// Takes up all but so many bytes of it.
    pub fn leave_bytes(&self, left: u64) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a writable disk");
        while self.free_bytes() > left {
            let piece = (self.free_bytes() - left).min(64 << 10) as usize;
            ballast.write_all(&vec![1; piece]).expect("that much was free");
        }
    }

    /// Gives back all that was taken up.
    pub fn give_room(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that has mounted it and waits for its end.
fn hold(flags: &[&str], folder: &Path, mebibytes: u32) -> Option<Child> {
    let script = format!("mount -t tmpfs -o size={mebibytes}m none \"$0\" && echo mounted && exec cat");
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", &script]).arg(folder);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut said = String::new();
    let stdout = holder.stdout.take().expect("it is piped");
    let told = BufReader::new(stdout).read_line(&mut said);
    if told.is_ok() && said == "mounted\n" {
        return Some(holder);
    }
    let _ = holder.kill();
    let _ = holder.wait();
    None
}
