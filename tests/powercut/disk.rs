//! A folder on a disk that forgets (`forgetful.c`), and what a power cut leaves of it.

use crate::survival::{Cut, Names, Node, Survival};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::random::Random;
use tempfile::TempDir;

const KINDS: [&str; 4] = ["durable", "live", "names", "graves"];

/// The folder, and beside it what is durable of it.
#[derive(Debug)]
pub struct ForgetfulDisk {
    root: TempDir,
    ignored: &'static str,
}

impl ForgetfulDisk {
    /// An empty one.
    pub fn new() -> ForgetfulDisk {
        let disk = ForgetfulDisk { root: tempfile::tempdir().expect("a temporary folder"), ignored: "" };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powercut/forgetful.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(disk.library()).arg(source);
        assert!(cc.status().expect("cc is installed").success(), "the layer is not compiled");
        fs::create_dir(disk.folder()).expect("a writable folder");
        disk.all_is_durable();
        disk
    }

    /// The same that lies: syncs of paths that end so do nothing.
    pub fn that_ignores(self, path_end: &'static str) -> ForgetfulDisk {
        ForgetfulDisk { ignored: path_end, ..self }
    }

    /// What may be written to.
    pub fn folder(&self) -> PathBuf {
        self.root.path().join("disk")
    }

    fn library(&self) -> PathBuf {
        self.root.path().join("forgetful.so")
    }

    fn kept(&self, kind: &str, inode: u64) -> PathBuf {
        self.root.path().join("kept").join(kind).join(inode.to_string())
    }

    /// Variables of a program that is to use it; its syncs take up to so long.
    pub fn environment(&self, sync_us: u64) -> Vec<(&'static str, String)> {
        let path = |path: PathBuf| path.into_os_string().into_string().expect("UTF-8");
        vec![
            ("LD_PRELOAD", path(self.library())),
            ("FORGETFUL_FROM", path(self.folder())),
            ("FORGETFUL_TO", path(self.root.path().join("kept"))),
            ("FORGETFUL_SYNC_US", sync_us.to_string()),
            ("FORGETFUL_IGNORES", self.ignored.to_owned()),
        ]
    }

    /// Whether a program has synced a folder on it since the last cut.
    pub fn was_used(&self) -> bool {
        let names = self.kept("names", 0);
        let folders = fs::read_dir(names.parent().expect("a folder")).expect("a folder");
        folders.count() > 1
    }

    /// Leaves of the folder what a power cut leaves; nobody uses it now.
    pub fn cut(&self, cut: Cut, random: &mut Random) {
        let (next, folder) = (self.root.path().join("next"), self.folder());
        let inode = fs::metadata(&folder).expect("the folder").ino();
        self.survive(inode, Some(&folder), &next, &mut Survival::of(cut, random));
        fs::remove_dir_all(&folder).expect("a writable folder");
        fs::rename(&next, &folder).expect("a writable folder");
        self.all_is_durable();
    }

    /// After a power cut what is there is there.
    fn all_is_durable(&self) {
        let kept = self.root.path().join("kept");
        match fs::remove_dir_all(&kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        for kind in KINDS {
            fs::create_dir_all(kept.join(kind)).expect("a writable folder");
        }
        self.keep(&self.folder());
    }

    fn keep(&self, folder: &Path) {
        let mut lines = String::new();
        for (name, node) in live_names(folder) {
            let path = folder.join(&name);
            let kind = if node.is_folder { 'd' } else { 'f' };
            lines += &format!("{} {kind} {name}\n", node.inode);
            if node.is_folder {
                self.keep(&path);
            } else {
                fs::copy(&path, self.kept("durable", node.inode)).expect("a copy");
                fs::hard_link(&path, self.kept("live", node.inode)).expect("a link");
            }
        }
        let inode = fs::metadata(folder).expect("a folder").ino();
        fs::write(self.kept("names", inode), lines).expect("a writable folder");
    }

    fn durable_names(&self, inode: u64) -> Names {
        let Ok(lines) = fs::read_to_string(self.kept("names", inode)) else { return Names::new() };
        let name = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().expect("three parts");
            let node = Node { inode: part().parse().expect("a number"), is_folder: part() == "d" };
            (part().to_owned(), node)
        };
        lines.lines().map(name).collect()
    }

    /// Writes what survives of a folder; `live` is where it is now, if it is.
    fn survive(&self, inode: u64, live: Option<&Path>, to: &Path, survival: &mut Survival<'_>) {
        fs::create_dir(to).expect("a writable folder");
        let now = live.map(live_names).unwrap_or_default();
        for (name, node) in survival.names(&self.durable_names(inode), &now) {
            let to = to.join(&name);
            let is_named = now.get(&name) == Some(&node);
            if node.is_folder {
                // One that was renamed would lose its newer names; none is.
                let live = live.filter(|_| is_named).map(|folder| folder.join(&name));
                self.survive(node.inode, live.as_deref(), &to, survival);
                continue;
            }
            let durable = fs::read(self.kept("durable", node.inode)).unwrap_or_default();
            let linked = fs::read(self.kept("live", node.inode));
            // A file that was never synced, nor its name, has no link.
            let live = linked.or_else(|_| fs::read(live.unwrap_or(Path::new("")).join(&name)));
            let bytes = survival.bytes(durable, &live.expect("a file"));
            fs::write(to, bytes).expect("a writable folder");
        }
    }
}

fn live_names(folder: &Path) -> Names {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let found = entry.metadata().expect("a file or folder");
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, Node { inode: found.ino(), is_folder: found.is_dir() })
    };
    fs::read_dir(folder).expect("a folder").map(name).collect()
}
