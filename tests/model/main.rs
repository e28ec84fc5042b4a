//! How runs change hands, as a model that is explored to its end. `docs/protocol.md` tells it in words: the protocol, the promises,
//! what the model leaves out, and what each mutant breaks.
//!
//! `cargo test --test model -- --nocapture` prints how much was explored; with `STEPD_MODEL_TRACES=1` also the shortest way on which
//! each mutant breaks its promise. `--include-ignored` explores further (in a release build).

mod database;
mod explore;
mod faults;
mod model;
mod mutants;
mod presence;
mod runs;
mod state;

use explore::{Explored, explore, told};
use model::Model;
use mutants::Mutant;
use state::Bounds;

fn explored(mutant: Option<Mutant>, bounds: Bounds) -> Explored {
    let began = std::time::Instant::now();
    let explored = explore(&Model { mutant, bounds });
    let name = mutant.map_or_else(|| "the protocol".to_owned(), |m| format!("{m:?}"));
    let Explored { states, transitions, depth, .. } = explored;
    println!("{name}, {bounds}: {states} states, {transitions} transitions, depth {depth}, {:.1?}", began.elapsed());
    explored
}

fn keeps_every_promise(bounds: Bounds) {
    let explored = explored(None, bounds);
    if let Some((broken, way)) = explored.broken {
        panic!("{broken:?} after\n{}", told(&way));
    }
}

#[test]
fn with_three_workers_two_runs_and_a_fault_every_promise_is_kept() {
    keeps_every_promise(Bounds { workers: 3, runs: 2, faults: 1, requests: 0, failures: 0 });
}

#[test]
fn with_two_faults_in_a_row_every_promise_is_kept() {
    keeps_every_promise(Bounds { workers: 2, runs: 1, faults: 2, requests: 0, failures: 0 });
}

#[test]
fn with_a_fault_among_failing_steps_cancels_and_retries_every_promise_is_kept() {
    keeps_every_promise(Bounds { workers: 2, runs: 1, faults: 1, requests: 2, failures: 2 });
}

#[test]
#[ignore = "two million states: half a minute in a release build, some minutes in a debug one"]
fn with_three_workers_and_two_faults_in_a_row_every_promise_is_kept() {
    keeps_every_promise(Bounds { workers: 3, runs: 1, faults: 2, requests: 0, failures: 0 });
}

#[test]
fn every_mutant_breaks_the_promise_that_it_is_here_for() {
    let tell = std::env::var_os("STEPD_MODEL_TRACES").is_some();
    for (mutant, bounds, promise) in mutants::all() {
        let Some((broken, way)) = explored(Some(mutant), bounds).broken else {
            panic!(
                "{mutant:?} breaks nothing: either the protocol does not need what it leaves out, or the model is blind to it"
            );
        };
        if tell {
            println!("{broken:?} after\n{}", told(&way));
        }
        assert_eq!(broken, promise, "{mutant:?}, after\n{}", told(&way));
    }
}
