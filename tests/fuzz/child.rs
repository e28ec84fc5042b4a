//! One target, fuzzed in this process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::arguments::Order;
use crate::coverage::{self, Coverage};
use crate::judge::{Judge, hash, memory_mib};
use crate::mutate::Mutator;
use crate::report::Done;
use crate::targets::Fuzzed;

/// As the threads have it on which the daemon works.
const STACK: usize = 2 << 20;

/// What is longer is not kept to be mutated.
const KEPT_BYTES: usize = 64 << 10;

/// The most inputs between two looks at what they have reached.
const BATCH: usize = 512;

pub fn run(order: &Order) {
    let order = order.clone();
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || fuzz(&order)).unwrap();
    let done = thread.join().unwrap();
    println!("{}", serde_json::to_string(&done).unwrap());
}

fn fuzz(order: &Order) -> Done {
    let folder = order.corpus.join(order.target.name);
    let mut fuzzed = (order.target.make)();
    let mut session = Session {
        judge: Judge::new(&folder),
        coverage: Coverage::default(),
        corpus: Vec::new(),
        keeps: folder.join("corpus"),
        look: Duration::ZERO,
    };
    let began = Instant::now();
    if let Some(file) = &order.input {
        session.judge.once(&mut *fuzzed, &std::fs::read(file).unwrap());
    } else {
        session.known(order.target.name, &mut *fuzzed);
        let mut mutator = Mutator::new(order.seed ^ hash(order.target.name.as_bytes()), order.target);
        while began.elapsed() < order.span && session.judge.executions < order.executions {
            session.batch(&mut *fuzzed, &mut mutator);
        }
    }
    Done {
        target: order.target.name.to_owned(),
        seed: order.seed,
        executions: session.judge.executions,
        seconds: began.elapsed().as_secs_f64(),
        corpus: session.corpus.len(),
        regions: session.coverage.reached(),
        longest_ms: session.judge.longest.as_secs_f64() * 1_000.0,
        memory_mib: memory_mib(),
        faults: session.judge.faults(),
    }
}

struct Session {
    judge: Judge,
    coverage: Coverage,
    corpus: Vec<Vec<u8>>,
    keeps: PathBuf,
    /// What a look at the counters costs.
    look: Duration,
}

impl Session {
    /// What is known already: what was found once, the seeds, and what earlier sessions have kept.
    fn known(&mut self, target: &str, fuzzed: &mut dyn Fuzzed) {
        let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/found").join(target);
        for input in files(&found).into_iter().chain(fuzzed.seeds()).chain(files(&self.keeps)) {
            self.judge.once(fuzzed, &input);
            let looked = Instant::now();
            self.coverage.take();
            self.look = looked.elapsed();
            if input.len() <= KEPT_BYTES {
                self.corpus.push(input);
            }
        }
        assert!(!self.corpus.is_empty(), "{target} has no seeds");
    }

    /// Some new inputs. What they reach is looked at once for all of them; where that is something new, they are executed again.
    fn batch(&mut self, fuzzed: &mut dyn Fuzzed, mutator: &mut Mutator) {
        let mut inputs = Vec::new();
        let began = Instant::now();
        // The look at the counters takes a tenth of the time at most.
        while inputs.is_empty() || (inputs.len() < BATCH && coverage::IS_ON && began.elapsed() < 10 * self.look) {
            let input = mutator.next(&self.corpus);
            self.judge.once(fuzzed, &input);
            inputs.push(input);
        }
        if self.coverage.is_new() {
            self.keep_new(fuzzed, &inputs);
        }
    }

    /// Which of these inputs it was that reached something new: looked for by halves, for a look costs more than most executions.
    fn keep_new(&mut self, fuzzed: &mut dyn Fuzzed, inputs: &[Vec<u8>]) {
        self.coverage.forget();
        inputs.iter().for_each(|input| self.judge.once(fuzzed, input));
        if !self.coverage.is_new() {
            return;
        }
        if let [input] = inputs {
            self.coverage.take();
            if input.len() <= KEPT_BYTES {
                std::fs::create_dir_all(&self.keeps).unwrap();
                std::fs::write(self.keeps.join(format!("{:016x}", hash(input))), input).unwrap();
                self.corpus.push(input.clone());
            }
            return;
        }
        let kept = self.corpus.len();
        let (first, rest) = inputs.split_at(inputs.len() / 2);
        self.keep_new(fuzzed, first);
        self.keep_new(fuzzed, rest);
        if self.corpus.len() == kept {
            // What depends on more than the input is nobody's find, and is not looked for again.
            inputs.iter().for_each(|input| self.judge.once(fuzzed, input));
            self.coverage.take();
        }
    }
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_file()).collect();
    paths.sort();
    paths.into_iter().map(|p| std::fs::read(p).unwrap()).collect()
}
