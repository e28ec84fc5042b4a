//! Whether and when to try again: one function for live failures and for swept ones alike.

use std::time::Duration;

use crate::model::{Class, Failure};

use super::policy::{Backoff, ResumePolicy, RetryPolicy};

/// The pause before the attempt that follows attempt number `attempt` (from 1), or `None` when the
/// failure is final. `draw` is a random number in `[0, 1)`, given from outside so that this stays pure.
#[must_use]
pub fn next_attempt(policy: &RetryPolicy, failure: &Failure, attempt: u32, draw: f64) -> Option<Duration> {
    if attempt >= policy.max_attempts || !retryable(policy, failure) {
        return None;
    }
    let grown = grow((policy.backoff, policy.factor), policy.initial, policy.max, attempt);
    let pause = grown.mul_f64(1.0 - policy.jitter.clamp(0.0, 1.0) * draw.clamp(0.0, 1.0));
    let asked = failure.retry_after_ms.map_or(Duration::ZERO, Duration::from_millis);
    // A server's Retry-After outweighs our own pause, but never the author's `max` by more than it asks.
    Some(pause.max(asked))
}

/// The pause before automatic resume number `resumes + 1`, or `None` when the run has failed for good.
#[must_use]
pub fn next_resume(policy: &ResumePolicy, failure: &Failure, resumes: u32, draw: f64) -> Option<Duration> {
    if failure.class == Class::Permanent || resumes >= policy.max_attempts {
        return None;
    }
    let grown = grow((Backoff::Exponential, 2.0), policy.initial, policy.max, resumes + 1);
    Some(grown.mul_f64(1.0 - 0.1 * draw.clamp(0.0, 1.0)))
}

fn retryable(policy: &RetryPolicy, failure: &Failure) -> bool {
    if policy.not.iter().any(|word| failure.matches(word)) {
        return false;
    }
    if policy.only.is_empty() {
        failure.class == Class::Transient
    } else {
        policy.only.iter().any(|w| failure.matches(w))
    }
}

fn grow((backoff, factor): (Backoff, f64), initial: Duration, max: Duration, attempt: u32) -> Duration {
    let grown = match backoff {
        Backoff::Constant => initial,
        Backoff::Linear => initial.saturating_mul(attempt),
        Backoff::Exponential => {
            let times = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
            // Past any span that there is, it is the longest.
            Duration::try_from_secs_f64(initial.as_secs_f64() * factor.max(1.0).powi(times)).unwrap_or(max)
        }
    };
    grown.min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy { max_attempts: 4, jitter: 0.0, max: Duration::from_secs(3), ..RetryPolicy::default() }
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_then_end() {
        let f = Failure::transient("timeout", "x");
        let pauses: Vec<_> = (1..=4).map(|n| next_attempt(&policy(), &f, n, 0.5).map(|d| d.as_secs())).collect();
        assert_eq!(pauses, [Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn another_factor_grows_by_that() {
        let f = Failure::transient("timeout", "x");
        let p = RetryPolicy { factor: 3.0, max: Duration::from_secs(20), max_attempts: 5_000, ..policy() };
        let pauses: Vec<_> = [1, 2, 3, 4, 4_000].map(|n| next_attempt(&p, &f, n, 0.0).map(|d| d.as_secs())).into();
        assert_eq!(pauses, [Some(1), Some(3), Some(9), Some(20), Some(20)]);
    }

    #[test]
    fn permanent_failures_are_never_retried_unless_named() {
        let f = Failure::permanent("exit_64", "x");
        assert_eq!(next_attempt(&policy(), &f, 1, 0.0), None);
        let named = RetryPolicy { only: vec!["exit_64".into()], ..policy() };
        assert!(next_attempt(&named, &f, 1, 0.0).is_some());
    }

    #[test]
    fn not_outweighs_only() {
        let f = Failure::transient("http_503", "x");
        let p = RetryPolicy { only: vec!["http_5xx".into()], not: vec!["http_503".into()], ..policy() };
        assert_eq!(next_attempt(&p, &f, 1, 0.0), None);
    }

    #[test]
    fn jitter_only_shortens() {
        let f = Failure::transient("timeout", "x");
        let p = RetryPolicy { jitter: 0.5, ..policy() };
        for draw in [0.0, 0.3, 0.999] {
            let pause = next_attempt(&p, &f, 2, draw).unwrap();
            assert!(pause <= Duration::from_secs(2) && pause >= Duration::from_secs(1));
        }
    }

    #[test]
    fn a_server_that_asks_for_more_time_gets_it() {
        let mut f = Failure::transient("http_429", "x");
        f.retry_after_ms = Some(60_000);
        assert_eq!(next_attempt(&policy(), &f, 1, 0.0), Some(Duration::from_secs(60)));
    }

    #[test]
    fn resumes_end_with_the_policy_and_never_follow_a_permanent_failure() {
        let p = ResumePolicy { max_attempts: 2, ..ResumePolicy::default() };
        let f = Failure::transient("timeout", "x");
        assert_eq!(next_resume(&p, &f, 0, 0.0), Some(Duration::from_secs(10)));
        assert_eq!(next_resume(&p, &f, 1, 0.0), Some(Duration::from_secs(20)));
        assert_eq!(next_resume(&p, &f, 2, 0.0), None);
        assert_eq!(next_resume(&p, &Failure::permanent("x", "x"), 0, 0.0), None);
    }
}
