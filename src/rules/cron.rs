//! When a schedule fires: five cron fields by the clock of a time zone.
//!
//! What the clock skips and repeats (daylight saving) is settled as cron always has: an hour that does not exist is fired for
//! at its end, once; a fixed time in an hour that comes twice fires the first time only, while `*` and `*/n` count real time.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

/// Of instants that passed while nobody looked, no more than this are made up for: the latest.
pub const MOST_CAUGHT_UP: usize = 100;

/// An instant counts as missed when it is seen later than this: the restart of the only worker takes a second or two, and no
/// schedule is finer than a minute.
pub const ON_TIME: TimeDelta = TimeDelta::seconds(60);

/// Spans looked through from the end backwards until enough instants are found: nobody counts the minutes of a year.
const SPANS: [TimeDelta; 5] =
    [TimeDelta::hours(1), TimeDelta::days(1), TimeDelta::days(30), TimeDelta::days(365), TimeDelta::days(3650)];

/// A schedule's times.
#[derive(Clone, Debug)]
pub struct Cron {
    fields: croner::Cron,
    zone: Tz,
}

/// Why a text says no times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields.
    #[error("a schedule has five fields (minute, hour, day of the month, month, day of the week), not {0}")]
    Fields(usize),
    /// A field that is none.
    #[error("{0}")]
    Field(String),
    /// Such a day never comes.
    #[error("no day is ever like this")]
    Never,
    /// No such time zone.
    #[error("there is no time zone `{0}`")]
    Zone(String),
}

/// What becomes of the instants that nobody saw in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// They are left out.
    None,
    /// The last one fires.
    Last,
    /// All of them fire, the latest [`MOST_CAUGHT_UP`].
    All,
}

impl CatchUp {
    /// The word of the language.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }

    /// From the word of the language.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::Last, Self::All].into_iter().find(|c| c.as_str() == word)
    }
}

/// What each field is, and what may stand in it.
const FIELDS: [&str; 5] = [
    "minute (0 to 59)",
    "hour (0 to 23)",
    "day of the month (1 to 31)",
    "month (1 to 12, or JAN to DEC)",
    "day of the week (0 to 7, or SUN to SAT)",
];

/// Which of the fields cannot be read: the one that is wrong by itself.
fn wrong_field(parser: &CronParser, fields: &str, otherwise: &str) -> String {
    let mut each = fields.split_whitespace().zip(FIELDS).enumerate();
    let wrong = each.find(|(place, (field, _))| {
        let mut alone = ["*"; 5];
        alone[*place] = field;
        parser.parse(&alone.join(" ")).is_err()
    });
    match wrong {
        _ if fields.trim_start().starts_with('@') => {
            "the words are @hourly, @daily, @weekly, @monthly and @yearly".to_owned()
        }
        Some((_, (field, what))) => format!("`{field}` is no {what}"),
        None => otherwise.to_owned(),
    }
}

impl Cron {
    /// Reads five fields (or a word such as `@daily`) and the name of a time zone.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(fields: &str, zone: &str) -> Result<Self, CronError> {
        let zone: Tz = zone.parse().map_err(|_| CronError::Zone(zone.to_owned()))?;
        let count = fields.split_whitespace().count();
        if count != 5 && !fields.trim_start().starts_with('@') {
            return Err(CronError::Fields(count));
        }
        // The library reads nothing between two commas as no time at all, and looks for a second for when that is.
        let mut each = fields.split_whitespace().zip(FIELDS);
        if let Some((field, what)) = each.find(|(field, _)| field.split(',').any(str::is_empty)) {
            return Err(CronError::Field(format!("`{field}` is no {what}")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let fields =
            parser.parse(fields).map_err(|e| CronError::Field(wrong_field(&parser, fields, &e.to_string())))?;
        let cron = Self { fields, zone };
        match cron.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }

    /// The first instant after a time.
    #[must_use]
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.fields.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
        Some(found.with_timezone(&Utc))
    }

    /// The instants after one time and not after another, in order; of more than `most` the latest.
    #[must_use]
    pub fn fires(&self, after: DateTime<Utc>, until: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        let mut found = Vec::new();
        for span in SPANS.into_iter().map(Some).chain([None]) {
            let from = span.map_or(after, |span| after.max(until - span));
            found.clear();
            let mut at = from;
            while let Some(next) = self.next(at).filter(|next| *next <= until && *next > at) {
                found.push(next);
                at = next;
            }
            if found.len() >= most || from == after {
                break;
            }
        }
        found.split_off(found.len().saturating_sub(most))
    }

    /// What is to fire at `now`, when everything up to `seen` is decided.
    #[must_use]
    pub fn due(&self, catch_up: CatchUp, seen: DateTime<Utc>, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        match catch_up {
            CatchUp::None => self.fires(seen.max(now - ON_TIME), now, MOST_CAUGHT_UP),
            CatchUp::Last => self.fires(seen, now, 1),
            CatchUp::All => self.fires(seen, now, MOST_CAUGHT_UP),
        }
    }
}

/// The names of all time zones.
pub fn zones() -> impl Iterator<Item = &'static str> {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
