//! The targets, one after the other, each in a child process.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::arguments::Options;
use crate::judge::{Fault, at_work, memory_of};
use crate::report::{Done, Report};
use crate::targets::Target;

/// Without a new execution for so long, one hangs.
const HANGS: Duration = Duration::from_secs(30);

/// A child that takes so much is ended before the machine is.
const ENDED_MIB: u64 = 2_048;

pub fn run(options: &Options) -> Report {
    let weights: u32 = options.targets.iter().map(|t| t.weight).sum();
    let mut report = Report::default();
    for target in &options.targets {
        let share = options.span * target.weight / weights;
        let done = of_target(options, target, share);
        println!("{:<12} {} executions, {} faults", done.target, done.executions, done.faults.len());
        report.targets.push(done);
    }
    report
}

fn of_target(options: &Options, target: &Target, share: Duration) -> Done {
    let folder = options.corpus.join(target.name);
    std::fs::create_dir_all(&folder).unwrap();
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--child", "--targets", target.name, "--seed", &options.seed.to_string()]);
    child.args(["--seconds", &share.as_secs_f64().to_string(), "--executions", &options.executions.to_string()]);
    child.arg("--corpus").arg(&options.corpus).stdout(Stdio::piped());
    if let Some(input) = &options.input {
        child.arg("--input").arg(input);
    }
    let mut child = child.spawn().unwrap();
    let wrong = watch(&mut child, &folder);
    let mut said = String::new();
    let _ = child.stdout.take().unwrap().read_to_string(&mut said);
    let status = child.wait().unwrap();
    let mut done: Done = said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    if let Some(what) = wrong.or_else(|| (!status.success()).then(|| format!("the process ended by {status}"))) {
        let (n, input) = at_work(&folder).unwrap_or_default();
        done.executions = done.executions.max(n);
        let file = folder.join("faults/ended");
        std::fs::create_dir_all(folder.join("faults")).unwrap();
        std::fs::write(&file, input).unwrap();
        done.faults.push(Fault { what, times: 1, file });
    }
    Done { target: target.name.to_owned(), seed: options.seed, seconds: began.elapsed().as_secs_f64(), ..done }
}

/// Until it has ended, or must be ended: then why.
fn watch(child: &mut Child, folder: &Path) -> Option<String> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        let now = at_work(folder).map(|(n, _)| n);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let memory = memory_of(&child.id().to_string());
        let why = match (since.elapsed() > HANGS, memory > ENDED_MIB) {
            (true, _) => format!("an input takes more than {HANGS:?}"),
            (_, true) => format!("more than {ENDED_MIB} MiB of memory"),
            _ => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        child.kill().unwrap();
        return Some(why);
    }
}
