//! What must hold of a run that has ended, whatever befell it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::program::{Fate, Work};
use super::world::{Row, State};
use super::{Attempt, Simulation};
use crate::engine::journal::NoteKind;
use crate::model::{StepKey, StepState};

impl Simulation {
    /// What must hold of a run that has ended.
    pub(super) fn check(&self, state: &State, cancelled: bool) -> Result<(), String> {
        let t = self.world.tables();
        let must = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
        must(t.wrong.is_empty(), format!("{:?}", t.wrong))?;
        match (state, self.program.fate()) {
            (State::Cancelled, _) if cancelled => {}
            (State::Completed(output), Fate::Completed(wanted)) => {
                let output: Value = serde_json::from_str(output).unwrap();
                must(output == wanted, format!("the output is {output}, not {wanted}"))?;
            }
            (State::Failed(failure), Fate::Failed(at)) => {
                let step = failure.details.as_ref().and_then(|d| d["step"].as_str().map(str::to_owned));
                must(
                    step.as_ref().is_some_and(|s| at.contains(s)),
                    format!("failed with {failure:?}, not at one of {at:?}"),
                )?;
            }
            (state, fate) => return Err(format!("the run is {state:?} and must be {fate:?}")),
        }
        drop(t);
        self.end(state)?;
        self.attempts(matches!(state, State::Completed(_)))
    }

    /// What was done at the end: of what had started everything that can be taken back, newest first, and only where the run did not
    /// end well; then `on_failure`, then `finally`.
    fn end(&self, state: &State) -> Result<(), String> {
        let t = self.world.tables();
        let must = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
        let seq = |key: &str| {
            t.rows
                .get(&StepKey::from(key))
                .filter(|r| r.record.checkpoint && r.record.state != StepState::Skipped)
                .map(|r| r.record.seq)
        };
        let Some(decided) = seq("(end)") else {
            let nothing = !self.program.has_an_end() || *state == State::Cancelled && t.rows.is_empty();
            return must(nothing, "how the run ends was never recorded".to_owned());
        };
        let began = |r: &&Row| r.record.state != StepState::Skipped && self.program.is_undone(r.record.key.as_str());
        let mut began: Vec<_> =
            t.rows.values().filter(began).map(|r| (Reverse(r.record.seq), r.record.key.to_string())).collect();
        began.sort();
        let mut last = decided;
        for (_, key) in began {
            let undone = seq(&format!("{key}.undo"));
            if matches!(state, State::Completed(_)) {
                must(undone.is_none(), format!("{key} was undone, though the run ended well"))?;
                continue;
            }
            let undone = undone.ok_or_else(|| format!("{key} had started and was not undone"))?;
            must(undone > last, format!("{key} was undone before what had started after it"))?;
            last = undone;
        }
        let failed = matches!(state, State::Failed(_));
        for (wanted, key) in [
            (self.program.on_failure.is_some() && failed, "on_failure[0]"),
            (self.program.finally.is_some(), "finally[1]"),
        ] {
            must(seq(key).is_some() == wanted, format!("{key} must {}be done", if wanted { "" } else { "not " }))?;
            let place = seq(key).unwrap_or(last);
            must(place >= last, format!("{key} came before its time"))?;
            last = place;
        }
        Ok(())
    }

    fn attempts(&self, completed: bool) -> Result<(), String> {
        let log = self.log.lock().unwrap();
        let mut by_key: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
        for attempt in log.iter() {
            by_key.entry(&attempt.key).or_default().push(attempt);
        }
        for (key, attempts) in by_key {
            let work = self.program.work(key).unwrap();
            let failed = self
                .world
                .tables()
                .notes
                .iter()
                .filter(|n| n.0 == NoteKind::AttemptFailed && n.1.as_ref().is_some_and(|k| k.as_str() == key))
                .count();
            let most = self.program.failures(work) as usize;
            if failed > most || completed && !work.goes_on && failed != most {
                return Err(format!("{failed} failed attempts of {key} are recorded, and {most} were planned"));
            }
            let repeated = attempts.len().saturating_sub(most + 1);
            if repeated > self.crashes as usize + if self.disturbed { 8 } else { 0 } {
                return Err(format!(
                    "{key} was done {} times, and {most} failures were planned: {attempts:?}",
                    attempts.len()
                ));
            }
            for pair in attempts.windows(2) {
                self.pause(work, pair[0], pair[1])?;
            }
        }
        Ok(())
    }

    /// The pause between a failure and the next attempt is as long as the author says; and no longer where nothing else happened.
    fn pause(&self, work: &Work, one: &Attempt, next: &Attempt) -> Result<(), String> {
        let Some((ended, false)) = one.ended else { return Ok(()) };
        // Beside a zombie, what it did is no part of the row.
        if next.n != one.n + 1 || self.zombies && next.epoch != one.epoch {
            return Ok(());
        }
        let pause = next.began - ended;
        let by_retry = one.n < work.max_attempts;
        let wanted =
            if by_retry { work.pause(one.n) } else { Duration::from_millis(self.program.resume_after).mul_f64(0.9) };
        // Times are kept in milliseconds.
        if pause + Duration::from_millis(2) < wanted {
            return Err(format!(
                "{} began {pause:?} after a failure, and {wanted:?} were asked for: {one:?} {next:?}",
                next.key
            ));
        }
        let busy: Duration = self.program.works().map(|work| work.takes).sum();
        if by_retry
            && !self.disturbed
            && self.world.tables().resumes == 0
            && pause > wanted + busy + Duration::from_secs(1)
        {
            return Err(format!("{} began only {pause:?} after a failure, and {wanted:?} were asked for", next.key));
        }
        Ok(())
    }
}
