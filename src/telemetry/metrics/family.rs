//! Metrics with labels, of which there are only so many.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// What stands for the values that there was no room for.
pub const OTHER: &str = "other";

type Known<M> = HashMap<Box<str>, (Vec<Box<str>>, M)>;

/// Labels whose few values stepd itself gives: they stay when the others become [`OTHER`].
const CLOSED: [&str; 6] = ["state", "outcome", "direction", "found_by", "service", "status"];

/// One metric for each combination of label values, up to a limit; from then on a new combination counts under [`OTHER`]. Whoever counts
/// often keeps the metric of a combination: clones count into the same.
#[derive(Clone)]
pub struct Family<M> {
    labels: &'static [&'static str],
    most: usize,
    make: fn() -> M,
    known: Arc<RwLock<Known<M>>>,
}

impl<M> Debug for Family<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl<M: Clone> Family<M> {
    /// With these labels, and so many combinations at the most.
    #[must_use]
    pub fn new(labels: &'static [&'static str], most: usize, make: fn() -> M) -> Self {
        Self { labels, most, make, known: Arc::default() }
    }

    /// The metric of these values, in the order of the labels.
    #[must_use]
    pub fn of(&self, values: &[&str]) -> M {
        debug_assert_eq!(values.len(), self.labels.len());
        let others: Vec<&str>;
        let mut values = values;
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, found)) = known.get(&*key(values)) {
                return found.clone();
            }
            if known.len() >= self.most {
                others = self.others(values);
                values = &others;
                if let Some((_, found)) = known.get(&*key(values)) {
                    return found.clone();
                }
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(key(values).into());
        entry.or_insert_with(|| (values.iter().map(|value| (*value).into()).collect(), (self.make)())).1.clone()
    }

    fn others<'v>(&self, values: &[&'v str]) -> Vec<&'v str> {
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(label, value)| if CLOSED.contains(label) { *value } else { OTHER }).collect()
    }
}

fn key<'a>(values: &[&'a str]) -> Cow<'a, str> {
    match values {
        [one] => Cow::Borrowed(one),
        several => Cow::Owned(several.join("\u{1f}")),
    }
}

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Family<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.values().collect();
        all.sort_unstable_by_key(|(values, _)| values);
        for (values, metric) in all {
            let labels: Vec<_> = self.labels.iter().copied().zip(values.iter().map(|value| &**value)).collect();
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// What is counted of each thing of a kind (a workflow, a kind of step), looked up by its name.
#[derive(Debug)]
pub struct Handles<T> {
    most: usize,
    known: RwLock<HashMap<Box<str>, Arc<T>>>,
}

impl<T> Handles<T> {
    /// Of so many things at the most, and of all others together.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, known: RwLock::default() }
    }

    /// That of a name.
    pub fn of(&self, name: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        let mut name = name;
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if !known.contains_key(name) && known.len() >= self.most {
                name = OTHER;
            }
            if let Some(found) = known.get(name) {
                return found.clone();
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.into()).or_insert_with(|| Arc::new(make(name))).clone()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn past_the_limit_all_that_is_new_counts_as_other_and_what_is_known_as_itself() {
        let family = Family::<Counter>::new(&["workflow", "state"], 3, Counter::default);
        for n in 0..100 {
            for state in ["completed", "failed"] {
                family.of(&[&format!("w{n}"), state]).inc();
            }
        }
        family.of(&["w0", "completed"]).inc();
        assert_eq!(family.of(&["w0", "completed"]).get(), 2);
        assert_eq!(family.of(&["other", "completed"]).get(), 98);
        assert_eq!(family.of(&["other", "failed"]).get(), 99);
        assert_eq!(family.known.read().unwrap().len(), 5);

        let handles = Handles::<Box<str>>::new(2);
        let names: Vec<_> = ["a", "b", "c", "d", "a"].iter().map(|name| handles.of(name, |name| name.into())).collect();
        assert_eq!(names.iter().map(|name| &***name).collect::<Vec<_>>(), ["a", "b", "other", "other", "a"]);
    }
}
