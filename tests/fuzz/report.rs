//! What came of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::judge::Fault;

/// Of one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub target: String,
    pub seed: u64,
    pub executions: u64,
    pub seconds: f64,
    /// Inputs that are mutated: the seeds, and what reached new code.
    pub corpus: usize,
    /// Regions of code that were reached; 0: not built with coverage.
    pub regions: usize,
    pub longest_ms: f64,
    pub memory_mib: u64,
    pub faults: Vec<Fault>,
}

/// Of all.
#[derive(Debug, Default)]
pub struct Report {
    pub targets: Vec<Done>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.targets.iter().all(|t| t.faults.is_empty())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out =
            String::from("\ntarget         executions   a second   corpus  regions  longest ms  memory MiB  faults\n");
        for t in &self.targets {
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let rate = t.executions as f64 / t.seconds.max(0.001);
            let _ = writeln!(
                out,
                "{:<12} {:>12} {:>10.0} {:>8} {:>8} {:>11.1} {:>11} {:>7}",
                t.target,
                t.executions,
                rate,
                t.corpus,
                t.regions,
                t.longest_ms,
                t.memory_mib,
                t.faults.len()
            );
        }
        let all: u64 = self.targets.iter().map(|t| t.executions).sum();
        let seconds: f64 = self.targets.iter().map(|t| t.seconds).sum();
        let _ = writeln!(out, "{:<12} {all:>12} in {seconds:.0} s", "together");
        for t in &self.targets {
            for fault in &t.faults {
                let _ = writeln!(
                    out,
                    "\n{}: {} ({} times)\n  again with: cargo test --all-features --test fuzz -- --targets {} --input {}",
                    t.target,
                    fault.what,
                    fault.times,
                    t.target,
                    fault.file.display()
                );
            }
        }
        out
    }

    /// As JSON lines.
    pub fn append(&self, file: &Path) -> std::io::Result<()> {
        let mut out = std::fs::File::options().create(true).append(true).open(file)?;
        for target in &self.targets {
            writeln!(out, "{}", serde_json::to_string(target)?)?;
        }
        Ok(())
    }
}
