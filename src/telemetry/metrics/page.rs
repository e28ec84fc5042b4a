//! The page: what is counted, what is read when it is asked for, and its two forms.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

use super::about::{About, Kind};

/// The values of one metric: each with those of its labels.
type Values = Vec<(Vec<String>, f64)>;

/// The values that are read for one page.
#[derive(Debug, Default)]
pub struct Page {
    values: BTreeMap<&'static str, (&'static About, Values)>,
}

impl Page {
    /// A value of a gauge or a counter; `labels` in the order of the metric's.
    pub fn set(&mut self, about: &'static About, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), about.labels.len(), "{}", about.name);
        let labels = labels.iter().map(ToString::to_string).collect();
        self.values.entry(about.name).or_insert_with(|| (about, Vec::new())).1.push((labels, value));
    }

    /// A number of things.
    pub fn count(&mut self, about: &'static About, labels: &[&str], n: usize) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.set(about, labels, n as f64);
    }

    /// Yes or no.
    pub fn flag(&mut self, about: &'static About, labels: &[&str], is: bool) {
        self.set(about, labels, f64::from(u8::from(is)));
    }
}

/// Writes the values of what it knows.
pub type Reader = Box<dyn Fn(&mut Page) + Send + Sync>;

/// All readers; they are asked at each scrape.
#[derive(Clone, Default)]
pub(super) struct Readers(pub Arc<Mutex<Vec<Reader>>>);

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

impl Collector for Readers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut page = Page::default();
        for reader in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            reader(&mut page);
        }
        for (about, values) in page.values.into_values() {
            let (name, unit) = split(about);
            let kind = match about.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge | Kind::Histogram => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, &help(about), unit.as_ref(), kind)?;
            for (labels, value) in values {
                if labels.is_empty() {
                    write(&mut metric, about.kind, value)?;
                    continue;
                }
                let labels: Vec<_> = about.labels.iter().copied().zip(labels).collect();
                write(&mut metric.encode_family(&labels)?, about.kind, value)?;
            }
        }
        Ok(())
    }
}

fn write(metric: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), std::fmt::Error> {
    match kind {
        Kind::Counter => metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>),
        Kind::Gauge | Kind::Histogram => metric.encode_gauge(&value),
    }
}

/// The name without its unit, and the unit, where the name ends with it: as OpenMetrics wants it.
pub(super) fn split(about: &About) -> (&'static str, Option<Unit>) {
    let unit = match about.unit {
        "seconds" => Unit::Seconds,
        "bytes" => Unit::Bytes,
        _ => return (about.name, None),
    };
    match about.name.strip_suffix(about.unit).and_then(|name| name.strip_suffix('_')) {
        Some(name) => (name, Some(unit)),
        None => (about.name, None),
    }
}

fn help(about: &About) -> String {
    format!("{}.", about.says)
}

/// The form of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0, for who asks for it.
    Open,
    /// Prometheus' text format 0.0.4, which everything reads.
    Plain,
}

impl Form {
    /// What a client's `Accept` asks for.
    #[must_use]
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::Open } else { Self::Plain }
    }

    /// The `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// From OpenMetrics, which the library writes.
    pub(super) fn write(self, open: String) -> String {
        match self {
            Self::Open => open,
            Self::Plain => plain(&open),
        }
    }
}

/// The older format names a counter with its `_total`, knows no units, and has no end.
fn plain(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("# ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let mut words = rest.splitn(3, ' ');
        let (word, name, said) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // HELP stands right before TYPE, which says whether it is a counter.
        let counter = match word {
            Some("HELP") => lines
                .peek()
                .is_some_and(|next| next.strip_prefix("# TYPE ").is_some_and(|t| t == format!("{name} counter"))),
            Some("TYPE") => said == "counter",
            _ => continue,
        };
        let total = if counter { "_total" } else { "" };
        out.push_str(&format!("# {} {name}{total} {said}\n", word.unwrap_or_default()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_in_full_and_has_neither_units_nor_an_end() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{x=\"# TYPE\"} 1\n# HELP b Things.\n# TYPE b gauge\nb 2\n# EOF\n";
        let wanted = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"# TYPE\"} 1\n# HELP b Things.\n# TYPE b gauge\nb 2\n";
        assert_eq!(plain(open), wanted);
        assert_eq!(Form::of("text/html,application/openmetrics-text;version=1.0.0;q=0.5"), Form::Open);
        assert_eq!(Form::of("*/*"), Form::Plain);
    }
}
