//! What the operating system knows of the process and of its disk, read when it is asked for. The names are those
//! that every Prometheus client library uses. What the system does not tell is left out.

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::admin::metrics::MetricSink;

/// What of `/proc/self/stat` is shown.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

pub(super) fn add(sink: &mut MetricSink, data_dir: &Path) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    sink.counter_seconds("process_cpu_seconds_total", "User and system time of all threads.", &[], seconds);
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        let resident = stat.resident_pages as f64 * page_size() as f64;
        sink.gauge("process_resident_memory_bytes", "Memory in use.", &[], resident);
        let help = "Address space in use.";
        sink.gauge("process_virtual_memory_bytes", help, &[], stat.virtual_bytes as f64);
        if let Some(booted_s) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(booted_s) {
            let started_s = booted_s as f64 + stat.started_ticks as f64 / clock_ticks_per_second() as f64;
            sink.gauge("process_start_time_seconds", "When the process started, since 1970.", &[], started_s);
        }
    }
    if let Some(count) = open_files() {
        sink.gauge("process_open_fds", "Open files and connections.", &[], count as f64);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        sink.gauge("process_max_fds", "How many there may be.", &[], limit as f64);
    }
    if let Ok(disk) = statvfs(data_dir) {
        let [free, size] = [disk.f_bavail, disk.f_blocks].map(|blocks| blocks as f64 * disk.f_frsize as f64);
        let help = "What the file system of the data folder has left for us.";
        sink.gauge("millstream_data_dir_free_bytes", help, &[], free);
        let help = "The size of the file system of the data folder.";
        sink.gauge("millstream_data_dir_size_bytes", help, &[], size);
    }
}

impl Stat {
    /// `pid (name) state …`: the name may hold anything, but nothing behind it holds a parenthesis.
    fn parse(text: &str) -> Option<Stat> {
        let (_, behind_name) = text.rsplit_once(')')?;
        // The state is the third field of all.
        let mut fields = behind_name.split_ascii_whitespace().skip(22 - 3);
        let mut number = || fields.next()?.parse().ok();
        Some(Stat { started_ticks: number()?, virtual_bytes: number()?, resident_pages: number()? })
    }
}

fn booted_s(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Since Linux 6.2 the folder's size is their number; before, it is 0 and they are counted, which takes a while
/// when there are very many.
fn open_files() -> Option<u64> {
    const FILES: &str = "/proc/self/fd";
    match fs::metadata(FILES).ok()?.len() {
        // The folder itself is open while it is read.
        0 => Some((fs::read_dir(FILES).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_process_does_not_confuse() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4711 123456 789 18446744073709551615";
        let stat = Stat { started_ticks: 4711, virtual_bytes: 123_456, resident_pages: 789 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1 7"), None);
        assert_eq!(booted_s("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000));
    }
}
