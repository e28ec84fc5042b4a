//! The state machine against its own documentation, and against what the table allows.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const WORKERS: [WorkerId; 3] =
    [WorkerId(Uuid::from_u128(1)), WorkerId(Uuid::from_u128(2)), WorkerId(Uuid::from_u128(3))];

/// The order of the table's rows.
fn every_event(job: &Job) -> Vec<Event> {
    let worker = job.worker.unwrap_or(WORKERS[0]);
    let by = Fence { worker, epoch: job.epoch };
    let mut all = Vec::new();
    for limited in [false, true] {
        for (progressed, begun) in [(false, false), (false, true), (true, true)] {
            all.extend([
                Event::Stage { limited },
                Event::Admit,
                Event::Hold,
                Event::Reserve { worker, free: true },
                Event::Claim { worker, open: true },
                Event::ClaimSolo { worker, open: true },
                Event::Start(by),
                Event::Suspend { by, due: limited, progressed },
                Event::Wake { limited, progressed },
                Event::TakeOver { from: worker, begun, alone: limited, progressed, limited },
                Event::Release { by, progressed, limited },
                Event::Complete(by),
                Event::Fail(by),
                Event::ScheduleResume { by, progressed },
                Event::Cancelled(by),
                Event::Paused { by, progressed },
                Event::Cancel,
                Event::End { limited },
                Event::Pause,
                Event::Unpause { from: RunState::Queued, due: false, limited },
                Event::Unpause { from: RunState::Held, due: false, limited },
                Event::Unpause { from: RunState::Waiting, due: begun, limited },
                Event::Unpause { from: RunState::Resuming, due: true, limited },
                Event::Retry { limited },
            ]);
        }
        // What has been claimed was never paused while its first time was ahead.
        if job.epoch == 0 {
            all.push(Event::Unpause { from: RunState::Scheduled, due: true, limited });
        }
    }
    all
}

/// Every state with the lanes that fit it, and enough of the rest to open every way out.
fn every_kind_of_job() -> Vec<Job> {
    let mut all = Vec::new();
    for state in RunState::ALL {
        for lane in Lane::ALL {
            for (streak, due) in [(0, true), (SOLO_AFTER, true), (SOLO_AFTER + CRASH_LIMIT - 1, true)] {
                let worker = (state == RunState::Running).then_some(WORKERS[0]);
                let due = due && matches!(state, RunState::Scheduled | RunState::Waiting | RunState::Resuming);
                let job = Job { state, lane, streak, crashes: streak, worker, due, ..first(false, false) };
                if fits_the_table(&job) || state.is_final() {
                    all.push(job);
                }
            }
        }
    }
    all
}

/// The CHECK constraints of `stepd.jobs`.
fn fits_the_table(job: &Job) -> bool {
    let lane = match job.state {
        RunState::Queued => matches!(job.lane, Lane::Fresh | Lane::Returned),
        RunState::Running => matches!(job.lane, Lane::Fresh | Lane::Away),
        RunState::Held => matches!(job.lane, Lane::Held | Lane::HeldBack),
        _ => job.lane == Lane::Parked && !job.state.is_final(),
    };
    let may_be_due = matches!(job.state, RunState::Scheduled | RunState::Waiting | RunState::Resuming);
    let must_be_due = matches!(job.state, RunState::Scheduled | RunState::Resuming);
    lane && (job.state != RunState::Running || job.worker.is_some())
        && (!job.due || may_be_due)
        && (job.due || !must_be_due)
}

fn word(next: &Next) -> &'static str {
    match next {
        Next::Live(job) | Next::Ended(job) => job.state.as_str(),
        Next::Asked => "asked",
    }
}

#[test]
fn the_table_of_the_documentation_is_the_function() {
    let mut rows: Vec<(&str, Vec<BTreeSet<&str>>)> = Vec::new();
    for job in every_kind_of_job() {
        let column = RunState::ALL.iter().position(|s| *s == job.state).unwrap();
        for event in every_event(&job) {
            let row = rows.iter().position(|r| r.0 == event.name()).unwrap_or_else(|| {
                rows.push((event.name(), vec![BTreeSet::new(); RunState::ALL.len()]));
                rows.len() - 1
            });
            if let Ok(to) = next(&job, &event) {
                rows[row].1[column].insert(word(&to));
            }
        }
    }
    let documentation = include_str!("state.rs");
    for (event, cells) in rows {
        let cells = cells.into_iter().map(|mut words| {
            let mut cell = Vec::new();
            if words.contains("queued") && words.contains("held") {
                words.retain(|w| *w != "queued" && *w != "held");
                cell.push("ready");
            }
            cell.extend(words);
            if cell.is_empty() { " |".to_owned() } else { format!(" {} |", cell.join(", ")) }
        });
        let line = format!("//! | {event} |{}\n", cells.collect::<String>());
        assert!(documentation.contains(&line), "the table should have the row\n{line}");
    }
}

fn any_event(job: Job, choice: usize, stranger: bool) -> Event {
    let all = every_event(&job);
    let event = all[choice % all.len()];
    if !stranger {
        return event;
    }
    // A holder of an earlier epoch, or of none.
    let by = Fence { worker: WORKERS[choice % 3], epoch: job.epoch - i32::from(choice.is_multiple_of(2)) };
    match event {
        Event::Start(_) => Event::Start(by),
        Event::Complete(_) => Event::Complete(by),
        Event::Fail(_) => Event::Fail(by),
        Event::Cancelled(_) => Event::Cancelled(by),
        Event::Suspend { due, progressed, .. } => Event::Suspend { by, due, progressed },
        Event::Release { progressed, limited, .. } => Event::Release { by, progressed, limited },
        Event::ScheduleResume { progressed, .. } => Event::ScheduleResume { by, progressed },
        Event::Paused { progressed, .. } => Event::Paused { by, progressed },
        Event::Claim { .. } => Event::Claim { worker: by.worker, open: choice.is_multiple_of(2) },
        Event::ClaimSolo { .. } => Event::ClaimSolo { worker: by.worker, open: choice.is_multiple_of(2) },
        Event::Reserve { .. } => Event::Reserve { worker: by.worker, free: choice.is_multiple_of(2) },
        Event::TakeOver { begun, alone, progressed, limited, .. } => {
            Event::TakeOver { from: by.worker, begun, alone, progressed, limited }
        }
        other => other,
    }
}

/// One transition, checked; the run after it.
fn step(job: Job, event: Event) -> Result<Job, TestCaseError> {
    let Ok(to) = next(&job, &event) else { return Ok(job) };
    let retry = matches!(event, Event::Retry { .. });
    prop_assert!(!job.state.is_final() || (job.state == RunState::Failed && retry), "{event:?} after the end");
    let after = match to {
        Next::Asked => return Ok(job),
        Next::Live(after) => {
            prop_assert!(fits_the_table(&after), "{event:?}: {after:?} would be refused by the table");
            after
        }
        Next::Ended(after) => {
            prop_assert!(after.state.is_final());
            after
        }
    };
    let holds = after.state == RunState::Running;
    prop_assert_eq!(after.started, holds && after.started, "only a running run is started");
    prop_assert!(after.epoch - job.epoch <= 1 && after.epoch >= job.epoch, "the epoch rises by one or stays");
    let changes_hands = matches!(event, Event::Claim { .. } | Event::ClaimSolo { .. } | Event::TakeOver { .. });
    prop_assert_eq!(
        after.epoch > job.epoch,
        changes_hands,
        "a claim and a take-over raise the epoch, nothing else does"
    );
    let died = matches!(event, Event::TakeOver { .. });
    prop_assert!(after.crashes >= job.crashes && (died || after.crashes == job.crashes), "crashes: {event:?}");
    prop_assert!(after.streak <= job.streak || died, "only a death lengthens the streak");
    prop_assert!(after.streak <= 2 * after.crashes && after.streak < SOLO_AFTER + CRASH_LIMIT);
    prop_assert!(after.resumes >= job.resumes || job.state == RunState::Failed, "resumes: {event:?}");
    prop_assert!(after.lane != Lane::Fresh || after.epoch <= 1, "what has been claimed never comes back as new");
    prop_assert!(after.taken <= (died || job.taken), "only a take-over marks a run as taken");
    Ok(after)
}

proptest! {
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(
        (ahead, limited) in any::<(bool, bool)>(),
        events in prop::collection::vec((any::<usize>(), prop::bool::weighted(0.2)), 1..120),
    ) {
        let mut job = first(ahead, limited);
        prop_assert!(fits_the_table(&job));
        for (choice, stranger) in events {
            job = step(job, any_event(job, choice, stranger))?;
        }
    }

    #[test]
    fn a_lease_that_is_lost_fits_nothing_any_more(
        events in prop::collection::vec((any::<usize>(), prop::bool::weighted(0.2)), 1..120),
    ) {
        let mut job = first(false, false);
        let mut lost: Vec<Fence> = Vec::new();
        for (choice, stranger) in events {
            let before = job;
            job = step(job, any_event(job, choice, stranger))?;
            if let (RunState::Running, Some(worker)) = (before.state, before.worker)
                && (job.state, job.epoch) != (before.state, before.epoch)
            {
                lost.push(Fence { worker, epoch: before.epoch });
            }
            for by in &lost {
                for event in [Event::Start(*by), Event::Complete(*by), Event::Fail(*by), Event::Cancelled(*by)] {
                    prop_assert!(next(&job, &event).is_err(), "{event:?} of an old lease on {job:?}");
                }
            }
        }
    }
}

#[test]
fn only_crashes_in_a_row_end_a_run() {
    let mut job = first(false, false);
    let die = |job: Job, alone, progressed| {
        let worker = WORKERS[0];
        let claim = match job.streak < SOLO_AFTER {
            true => Event::Claim { worker, open: true },
            false => Event::ClaimSolo { worker, open: true },
        };
        let Ok(Next::Live(job)) = next(&job, &claim) else { panic!("{job:?} should be claimed") };
        next(&job, &Event::TakeOver { from: worker, begun: true, alone, progressed, limited: false }).unwrap()
    };
    for n in 1..=20 {
        let Next::Live(after) = die(job, false, true) else { panic!("quarantined after {n} crashes with progress") };
        assert_eq!((after.crashes, after.streak), (n, 1));
        job = after;
    }
    for n in 2..=SOLO_AFTER {
        let Next::Live(after) = die(job, false, false) else { panic!("quarantined after a streak of {n}") };
        assert_eq!(after.streak, n, "in company a crash counts once");
        job = after;
    }
    for n in 1..CRASH_LIMIT / 2 {
        let Next::Live(after) = die(job, true, false) else { panic!("quarantined after {n} crashes alone") };
        assert_eq!(after.streak, SOLO_AFTER + 2 * n, "alone it counts twice");
        job = after;
    }
    let Next::Ended(after) = die(job, true, false) else { panic!("not quarantined at the limit") };
    assert_eq!(after.state, RunState::Failed);
}

#[test]
fn a_pause_of_what_is_held_leaves_it_as_new_as_it_was() {
    for (epoch, lane) in [(0, Lane::Held), (1, Lane::HeldBack)] {
        // Claimed and let go before it had started: it has come back all the same.
        let job = Job { state: RunState::Held, lane, epoch, ..first(false, true) };
        let Ok(Next::Live(paused)) = next(&job, &Event::Pause) else { panic!("{job:?} can be paused") };
        let unpause = Event::Unpause { from: RunState::Held, due: false, limited: true };
        assert_eq!(next(&paused, &unpause), Ok(Next::Live(job)));
    }
}
