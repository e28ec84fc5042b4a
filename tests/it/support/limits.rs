//! What machines run out of: space on a disk, files, processes, memory.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file system of a few MiB that can be filled and emptied. Dropping it unmounts it.
pub struct Small(PathBuf);

impl Small {
    /// Mounts one; its folder is made, and belongs to whom the folder above belongs to. `None`, said aloud, where that is not allowed.
    pub fn mount(path: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={mib}m,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "stepd-small"]).arg(path).output();
        if !mounted.is_ok_and(|done| done.status.success()) {
            eprintln!("SKIPPED: no file system can be mounted here; that needs root");
            return None;
        }
        let above = std::fs::metadata(path.parent().unwrap()).unwrap();
        chown(path, Some(above.uid()), Some(above.gid())).unwrap();
        Some(Self(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Nothing is left.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        for size in [1 << 20, 4096] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// There is space again.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A control group of the first version. Dropping it lets its processes go back to the root's.
pub struct Group(PathBuf);

impl Group {
    /// Makes one. `None`, said aloud, where that is not allowed.
    pub fn new(controller: &str) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("stepd-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::SeqCst));
        let path = Path::new("/sys/fs/cgroup").join(controller).join(name);
        if std::fs::create_dir(&path).is_err() || !path.join("cgroup.procs").exists() {
            eprintln!(
                "SKIPPED: no group of processes can be limited in {controller} here; that needs root, and control groups of version 1"
            );
            return None;
        }
        Some(Self(path))
    }

    pub fn add(&self, pid: i32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    pub fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).unwrap();
    }

    pub fn get(&self, file: &str) -> u64 {
        std::fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let root = self.0.parent().unwrap().join("cgroup.procs");
        // Those that die in the meantime are gone from it, too.
        for _ in 0..100 {
            for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = std::fs::write(&root, pid);
            }
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// How many files a process may open from now on; `None`: as many as it ever might. Those that it has open stay.
pub fn limit_files(pid: i32, most: Option<usize>) {
    let hard = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let hard = hard.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().nth(4).unwrap();
    let soft = most.map_or_else(|| hard.to_owned(), |most| most.to_string());
    let limit = format!("--nofile={soft}:{hard}");
    let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).output().unwrap();
    assert!(done.status.success(), "prlimit: {}", String::from_utf8_lossy(&done.stderr));
}

/// The lowest number that no open file of a process has: with no more than that it can open none.
pub fn files(pid: i32) -> usize {
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let taken: std::collections::HashSet<usize> =
        numbers.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|n| !taken.contains(n)).unwrap()
}
