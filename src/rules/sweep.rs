//! Who is dead? The pure part of the sweep: what was seen of the workers goes in, suspects come out.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::WorkerId;

/// One worker, as one look saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who.
    pub worker: WorkerId,
    /// Its heartbeat counter.
    pub beat: i64,
    /// Its lease.
    pub lease: Duration,
    /// Does any session hold its lock?
    pub locked: bool,
    /// Does its marker stand under the present start of Postgres?
    pub marked: bool,
}

/// A worker to be taken over, and by what right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Who.
    pub worker: WorkerId,
    /// By its free lock (the marker stands); otherwise by its lease.
    pub by_lock: bool,
    /// The heartbeat counter that was watched.
    pub beat: i64,
}

/// What one observer remembers between its looks. Times are its own monotonic clock's, as spans since any fixed start.
#[derive(Debug, Default)]
pub struct Watch {
    /// Since when each worker's counter has stood where it stands.
    beats: HashMap<WorkerId, (i64, Duration)>,
    /// Whose lock was free at the last look, and the counter then.
    free: Vec<(WorkerId, i64)>,
    last_look: Option<Duration>,
}

/// What a look leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be taken over now.
    pub suspects: Vec<Suspect>,
    /// Some lock was found free for the first time: look again after a short while.
    pub look_again: bool,
}

/// An observer that could not look for this long knows nothing of the time between: its counts start anew.
const BLIND: Duration = Duration::from_secs(3);

impl Watch {
    /// Digests one look at time `now`.
    ///
    /// A take-over by lock needs the lock found free twice, with the marker standing and no heartbeat in between; a lost session is
    /// locked again by its owner, who beats before he locks. By lease, the counter must have stood still for the whole lease
    /// under this observer's own eyes.
    pub fn look(&mut self, me: WorkerId, seen: &[Sighting], now: Duration) -> Plan {
        if self.last_look.is_some_and(|last| now.saturating_sub(last) > BLIND) {
            self.beats.clear();
            self.free.clear();
        }
        self.last_look = Some(now);
        let mut plan = Plan::default();
        let mut free = Vec::new();
        let mut beats = HashMap::with_capacity(seen.len());
        for s in seen.iter().filter(|s| s.worker != me) {
            let since = match self.beats.get(&s.worker) {
                Some((beat, since)) if *beat == s.beat => *since,
                _ => now,
            };
            beats.insert(s.worker, (s.beat, since));
            if s.marked && !s.locked {
                if self.free.contains(&(s.worker, s.beat)) {
                    plan.suspects.push(Suspect { worker: s.worker, by_lock: true, beat: s.beat });
                } else {
                    plan.look_again = true;
                }
                free.push((s.worker, s.beat));
            } else if now.saturating_sub(since) >= s.lease {
                plan.suspects.push(Suspect { worker: s.worker, by_lock: false, beat: s.beat });
            }
        }
        self.beats = beats;
        self.free = free;
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ME: WorkerId = WorkerId(Uuid::from_u128(1));
    const PEER: WorkerId = WorkerId(Uuid::from_u128(2));

    fn peer(beat: i64, locked: bool, marked: bool) -> Sighting {
        Sighting { worker: PEER, beat, lease: Duration::from_secs(15), locked, marked }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lock_found_free_once_is_only_a_reason_to_look_again() {
        let mut w = Watch::default();
        let plan = w.look(ME, &[peer(1, false, true)], at(0));
        assert_eq!(plan, Plan { suspects: vec![], look_again: true });
    }

    #[test]
    fn a_lock_found_free_twice_is_a_death() {
        let mut w = Watch::default();
        w.look(ME, &[peer(1, false, true)], at(0));
        let plan = w.look(ME, &[peer(1, false, true)], at(100));
        assert_eq!(plan.suspects, [Suspect { worker: PEER, by_lock: true, beat: 1 }]);
    }

    #[test]
    fn a_lock_taken_again_in_between_clears_the_suspicion() {
        let mut w = Watch::default();
        w.look(ME, &[peer(1, false, true)], at(0));
        assert!(w.look(ME, &[peer(1, true, true)], at(100)).suspects.is_empty());
        assert!(w.look(ME, &[peer(1, false, true)], at(1000)).suspects.is_empty());
    }

    #[test]
    fn a_heartbeat_between_two_looks_at_a_free_lock_is_a_life() {
        let mut w = Watch::default();
        w.look(ME, &[peer(1, false, true)], at(0));
        let plan = w.look(ME, &[peer(2, false, true)], at(100));
        assert_eq!(plan, Plan { suspects: vec![], look_again: true }, "it had another session, and lost that too");
        assert_eq!(w.look(ME, &[peer(2, false, true)], at(200)).suspects.len(), 1);
    }

    #[test]
    fn without_the_marker_only_the_lease_decides() {
        let mut w = Watch::default();
        for t in 0..15 {
            assert!(w.look(ME, &[peer(7, false, false)], at(t * 1000)).suspects.is_empty(), "at {t} s");
        }
        let plan = w.look(ME, &[peer(7, false, false)], at(15_000));
        assert_eq!(plan.suspects, [Suspect { worker: PEER, by_lock: false, beat: 7 }]);
    }

    #[test]
    fn a_held_lock_is_no_proof_of_life() {
        let mut w = Watch::default();
        for t in 0..15 {
            w.look(ME, &[peer(7, true, true)], at(t * 1000));
        }
        assert_eq!(w.look(ME, &[peer(7, true, true)], at(15_000)).suspects.len(), 1);
    }

    #[test]
    fn a_heartbeat_starts_the_count_anew() {
        let mut w = Watch::default();
        for t in 0..60 {
            assert!(
                w.look(ME, &[peer(i64::from(t / 5), false, false)], at(u64::from(t as u32) * 1000)).suspects.is_empty()
            );
        }
    }

    #[test]
    fn an_observer_that_was_blind_itself_starts_anew() {
        let mut w = Watch::default();
        w.look(ME, &[peer(7, false, false)], at(0));
        w.look(ME, &[peer(7, false, false)], at(1000));
        assert!(w.look(ME, &[peer(7, false, false)], at(20_000)).suspects.is_empty(), "nobody looked for 19 s");
        assert!(w.look(ME, &[peer(7, false, true)], at(40_000)).suspects.is_empty());
    }

    #[test]
    fn nobody_suspects_itself() {
        let mut w = Watch::default();
        let me = Sighting { worker: ME, beat: 1, lease: at(1), locked: false, marked: true };
        w.look(ME, &[me], at(0));
        assert_eq!(w.look(ME, &[me], at(100)), Plan::default());
    }
}
