//! The metrics: all that Prometheus is told of this process and of its database.
//!
//! Every metric stands once in [`about::ALL`], with its unit and its words; `docs/metrics.md` is held against that table. A figure comes to
//! the page in one of two ways:
//!
//! - It is *counted* where it happens ([`counted`]): a group of counters and histograms, each count an addition to an atomic. Whoever counts
//!   has a group from [`Metrics`], which is made with the daemon.
//! - It is *read* when somebody asks ([`Shelf::reads`]): whoever knows a state (slots, pools, the database's own figures) writes it to
//!   the [`Page`].
//!
//! Labels are bounded: a [`family::Family`] has a limit, beyond which all the rest counts as `other`.
//!
//! A new metric is a line in [`about`], a line in the handbook, and either of the two.

pub mod about;
pub mod counted;
pub mod family;
pub mod histogram;
mod page;
pub mod process;

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::registry::{Metric, Registry};

use about::About;
use counted::{Claims, Models, Requests, Services, Work};
use family::Family;
pub use page::{Form, Page, Reader};
use page::{Readers, split};

/// The metrics of one daemon, or of one HTTP server.
#[derive(Debug)]
pub struct Metrics {
    /// Runs and their steps.
    pub work: Work,
    /// Models.
    pub models: Models,
    /// Claims.
    pub claims: Claims,
    /// Writers, take-overs, schedules, connections.
    pub services: Services,
    /// HTTP.
    pub requests: Requests,
    shelf: Shelf,
}

impl Default for Metrics {
    fn default() -> Self {
        let shelf = Shelf::default();
        shelf.registry().register_collector(Box::new(shelf.readers.clone()));
        shelf.reads(process::read);
        Self {
            work: Work::new(&shelf),
            models: Models::new(&shelf),
            claims: Claims::new(&shelf),
            services: Services::new(&shelf),
            requests: Requests::new(&shelf),
            shelf,
        }
    }
}

impl Metrics {
    /// Where others put theirs.
    #[must_use]
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The page.
    #[must_use]
    pub fn page(&self, form: Form) -> String {
        let mut open = String::new();
        // Nothing fails: it is written to memory.
        let _ = text::encode(&mut open, &self.shelf.registry());
        form.write(open)
    }
}

/// Where metrics are put.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Locked to put something there and to write a page, never to count.
    registry: Mutex<Registry>,
    readers: Readers,
}

impl Shelf {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a metric there that is counted; clones of it are the same.
    pub fn one<M: Metric + Clone>(&self, about: &'static About, metric: M) -> M {
        let (name, unit) = split(about);
        match unit {
            Some(unit) => self.registry().register_with_unit(name, about.says, unit, metric.clone()),
            None => self.registry().register(name, about.says, metric.clone()),
        }
        metric
    }

    /// Puts one there with its labels, and so many combinations of their values at the most.
    pub fn family<M>(&self, about: &'static About, most: usize, make: fn() -> M) -> Family<M>
    where
        M: EncodeMetric + TypedMetric + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        self.one(about, Family::new(about.labels, most, make))
    }

    /// Has something read when a page is written.
    pub fn reads(&self, reader: impl Fn(&mut Page) + Send + Sync + 'static) {
        self.readers.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(reader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handbook_has_every_metric_with_its_unit_and_no_other() {
        let handbook = include_str!("../../../docs/metrics.md");
        let told: Vec<&str> = handbook.lines().filter(|line| line.starts_with("| `")).collect();
        let lines = about::ALL.iter().map(|a| {
            let labels: Vec<_> = a.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} | {} | {} |", a.asked(), a.kind.word(), a.unit, labels.join(", "), a.says)
        });
        let lines: Vec<String> = lines.collect();
        assert_eq!(told, lines, "\n\nthese are the lines of the handbook:\n{}\n", lines.join("\n"));
    }

    #[test]
    fn names_follow_the_rules_and_every_one_is_there_once() {
        let mut names = std::collections::BTreeSet::new();
        for a in about::ALL {
            assert!(names.insert(a.name), "{} is there twice", a.name);
            assert!(a.name.starts_with("stepd_") || a.name.starts_with("process_"), "{}", a.name);
            assert!(!a.name.ends_with("_total") && !a.name.ends_with("_count"), "{}: the kind says that", a.name);
            assert!(!["seconds", "bytes"].contains(&a.unit) || a.name.ends_with(a.unit), "{} has another unit", a.name);
        }
    }

    #[test]
    fn what_is_counted_and_what_is_read_stand_on_one_page_in_both_forms() {
        let metrics = Metrics::default();
        metrics.work.run_ended("say \"hi\"\n", crate::model::RunState::Completed, std::time::Duration::from_millis(30));
        metrics.work.attempt_failed("http", "http_503", true);
        metrics.shelf().reads(|page| {
            page.count(&about::SLOTS, &[], 7);
            page.flag(&about::QUEUE_PAUSED, &["gpu"], true);
        });
        let (open, plain) = (metrics.page(Form::Open), metrics.page(Form::Plain));
        for line in [
            "stepd_runs_ended_total{workflow=\"say \\\"hi\\\"\\n\",state=\"completed\"} 1",
            "stepd_run_duration_seconds_bucket{le=\"0.025\",workflow=\"say \\\"hi\\\"\\n\"} 0",
            "stepd_run_duration_seconds_bucket{le=\"+Inf\",workflow=\"say \\\"hi\\\"\\n\"} 1",
            "stepd_attempts_failed_total{kind=\"http\",code=\"http_503\"} 1",
            "stepd_retries_total{kind=\"http\"} 1",
            "stepd_slots 7.0",
            "stepd_queue_paused{queue=\"gpu\"} 1.0",
        ] {
            assert!(open.lines().any(|l| l == line) && plain.lines().any(|l| l == line), "{line}\n{plain}");
        }
        assert!(open.contains("# UNIT stepd_run_duration_seconds seconds\n") && open.ends_with("# EOF\n"));
        assert!(plain.contains("# TYPE stepd_retries_total counter\n") && !plain.contains("# UNIT"));
    }
}
