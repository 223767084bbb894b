//! Ports that stay ours while a broker is down between a kill and a restart.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports for outgoing connections (Linux: 32768
/// and up), or a client could sit on the port of a broker that is about to restart.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on the loopback address that no other test of this machine uses, until dropped.
#[derive(Debug)]
pub struct Lease {
    /// The port number.
    pub port: u16,
    /// Holds the file lock that other test processes see.
    _lock: File,
}

/// Leases a port nobody listens on.
pub fn lease() -> Lease {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let folder = std::env::temp_dir().join("millstream-test-ports");
    fs::create_dir_all(&folder).expect("a folder for the locks");
    // Processes start far apart so that they rarely ask for the same lock.
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let lock = File::create(folder.join(port.to_string())).expect("a lock file");
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Lease { port, _lock: lock };
        }
    }
    panic!("no free port among {COUNT} from {FIRST} on");
}

#[cfg(test)]
mod tests {
    use super::lease;
    use std::collections::HashSet;
    use std::net::TcpListener;

    #[test]
    fn leases_differ_and_can_be_bound() {
        let leases: Vec<_> = (0..20).map(|_| lease()).collect();
        let ports: HashSet<u16> = leases.iter().map(|lease| lease.port).collect();
        assert_eq!(ports.len(), leases.len());
        TcpListener::bind(("127.0.0.1", leases[0].port)).expect("a leased port is free");
    }
}
