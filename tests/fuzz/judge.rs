//! What must not come of an input, and the inputs of which it did.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::coverage;
use crate::targets::Fuzzed;

/// The longest that one input may take; a build without optimization is some times slower, and shares its machine.
const LONGEST: Duration = Duration::from_secs(if coverage::IS_ON { 1 } else { 5 });

/// The most memory that a target may take.
pub const MOST_MIB: u64 = 256;

/// What was said by panics, of any thread, and not asked for yet.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Something that must not be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What it is; one fault each is told.
    pub what: String,
    /// How often it came.
    pub times: u64,
    /// The smallest input that did it.
    pub file: PathBuf,
}

/// Watches executions.
pub struct Judge {
    state: File,
    faults_in: PathBuf,
    known: BTreeMap<String, (Fault, usize)>,
    pub executions: u64,
    pub longest: Duration,
}

impl Judge {
    /// `folder` is the target's own.
    pub fn new(folder: &Path) -> Self {
        std::panic::set_hook(Box::new(|info| {
            let words = info.payload_as_str().unwrap_or("?");
            let words: String = words.chars().take(300).collect();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            // The expression library's own are caught where it is called, and become errors; one that is not is seen below.
            if place.contains("/minijinja-") {
                return;
            }
            PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(format!("a panic at {place}: {words}"));
        }));
        let faults_in = folder.join("faults");
        std::fs::create_dir_all(&faults_in).unwrap();
        let state = File::options().write(true).create(true).truncate(true).open(state_file(folder)).unwrap();
        Self { state, faults_in, known: BTreeMap::new(), executions: 0, longest: Duration::ZERO }
    }

    /// One input: what comes of it is noted.
    pub fn once(&mut self, fuzzed: &mut dyn Fuzzed, input: &[u8]) {
        self.executions += 1;
        self.note(input);
        let (took, mut wrong) = execute(fuzzed, input);
        if took > LONGEST {
            // The machine may have been busy with something else: again, by the processor's time, and by the clock where it is far too long.
            let (worked, began) = (processor_time(), Instant::now());
            execute(fuzzed, input);
            let (worked, again) = (processor_time() - worked, began.elapsed());
            if worked > LONGEST || again > 10 * LONGEST {
                wrong.push(format!("an input takes {:.1} s", worked.max(again).as_secs_f64()));
            }
        }
        self.longest = self.longest.max(took);
        let looks = took > Duration::from_millis(20) || self.executions.is_multiple_of(4_096);
        if looks && memory_mib() > MOST_MIB {
            wrong.push(format!("more than {MOST_MIB} MiB of memory"));
            // From here on the most is counted anew.
            let _ = std::fs::write("/proc/self/clear_refs", "5");
        }
        for what in wrong {
            self.fault(what, input);
        }
    }

    /// The input is kept outside of the process, for whoever sees it die.
    fn note(&self, input: &[u8]) {
        let mut all = Vec::with_capacity(16 + input.len());
        all.extend_from_slice(&self.executions.to_le_bytes());
        all.extend_from_slice(&(input.len() as u64).to_le_bytes());
        all.extend_from_slice(input);
        self.state.write_all_at(&all, 0).unwrap();
    }

    fn fault(&mut self, what: String, input: &[u8]) {
        // One and the same, whatever numbers it speaks of.
        let key: String = what.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).take(200).collect();
        let file = self.faults_in.join(format!("{:016x}", hash(key.as_bytes())));
        let (fault, size) =
            self.known.entry(key).or_insert_with(|| (Fault { what, times: 0, file: file.clone() }, usize::MAX));
        fault.times += 1;
        if input.len() < *size {
            *size = input.len();
            std::fs::write(file, input).unwrap();
        }
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.known.values().map(|(fault, _)| fault.clone()).collect()
    }
}

fn execute(fuzzed: &mut dyn Fuzzed, input: &[u8]) -> (Duration, Vec<String>) {
    let began = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| fuzzed.once(input)));
    let took = began.elapsed();
    let mut wrong = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    match done {
        Ok(Ok(())) => {}
        Ok(Err(what)) => wrong.push(what),
        Err(_) if wrong.is_empty() => wrong.push("a panic of a library that nobody caught".to_owned()),
        Err(_) => {}
    }
    (took, wrong)
}

/// What this process has had of processors.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

/// Where the input at work is noted.
pub fn state_file(folder: &Path) -> PathBuf {
    folder.join("now")
}

/// The number of the execution at work, and its input.
pub fn at_work(folder: &Path) -> Option<(u64, Vec<u8>)> {
    let all = std::fs::read(state_file(folder)).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(all.get(at..at + 8)?.try_into().ok()?));
    let (n, length) = (number(0)?, usize::try_from(number(8)?).ok()?);
    Some((n, all.get(16..)?.get(..length)?.to_vec()))
}

/// The most memory that this process has had, in MiB.
pub fn memory_mib() -> u64 {
    memory_of("self")
}

/// … that a process has had.
pub fn memory_of(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
