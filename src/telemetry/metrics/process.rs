//! What the kernel says of this process, under the names that all exporters use.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::Page;
use super::about::{
    PROCESS_CPU, PROCESS_FDS, PROCESS_FDS_MOST, PROCESS_MEMORY, PROCESS_START, PROCESS_THREADS, PROCESS_VIRTUAL,
};

/// Ticks a second in what the kernel tells: the same on every machine, whatever its own clock.
const USER_HZ: f64 = 100.0;

/// Writes it; nothing of what cannot be had.
pub fn read(page: &mut Page) {
    if let Ok(used) = getrusage(UsageWho::RUSAGE_SELF) {
        #[expect(clippy::cast_precision_loss, reason = "CPU time, far below 2^52")]
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        page.set(&PROCESS_CPU, &[], seconds(used.user_time()) + seconds(used.system_time()));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figures = [
        ("VmRSS:", &PROCESS_MEMORY, 1024.0),
        ("VmSize:", &PROCESS_VIRTUAL, 1024.0),
        ("Threads:", &PROCESS_THREADS, 1.0),
    ];
    for (name, about, unit) in figures {
        if let Some(n) = field(&status, name) {
            page.set(about, &[], n * unit);
        }
    }
    let started = || {
        Some(
            field(&fs::read_to_string("/proc/stat").ok()?, "btime")?
                + start(&fs::read_to_string("/proc/self/stat").ok()?)? / USER_HZ,
        )
    };
    if let Some(at) = started() {
        page.set(&PROCESS_START, &[], at);
    }
    // Without the one that the look itself needs.
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.count(&PROCESS_FDS, &[], open.count().saturating_sub(1));
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        page.set(&PROCESS_FDS_MOST, &[], soft as f64);
    }
}

/// The number that follows a word at the beginning of a line.
fn field(text: &str, word: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(word))?.split_ascii_whitespace().next()?.parse().ok()
}

/// When the process started, in ticks since the machine did: field 22.
fn start(stat: &str) -> Option<f64> {
    // The command's name stands in parentheses, and may hold anything. After it: the state is field 3.
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read_whatever_the_command_is_called() {
        let line = "17 (a) b) c) S 1 17 17 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 7 0 12345 900000 256";
        assert_eq!(start(line), Some(12345.0));
        assert_eq!(start("17 (x"), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t   1234 kB\n", "VmRSS:"), Some(1234.0));
        assert_eq!(field("", "VmRSS:"), None);
    }
}
