//! The small languages: times of schedules, spans, places in lists and logs, trace contexts, what is hidden in logs.

use chrono::{DateTime, Utc};
use stepd::app::{config::Config, retention};
use stepd::db::logs::Place;
use stepd::definition::parse_duration;
use stepd::model::{RunState, StepState};
use stepd::rules::cron::{CatchUp, Cron};
use stepd::steps::Allowed;
use stepd::telemetry::{redact, traces::ids};

use super::{Form, Fuzzed, Target, fields, fit_for_people, joined};

pub const TARGET: Target = Target {
    name: "words",
    what: "cron fields and time zones, spans, places in logs, trace contexts, targets of requests, what logs hide",
    weight: 2,
    forms: &[Form::Text, Form::Text, Form::Text],
    words: &[
        "cron",
        "span",
        "place",
        "trace",
        "target",
        "hide",
        "state",
        "retention",
        "*/5",
        "0-59/7",
        "MON-FRI",
        "JAN,DEC",
        "L",
        "LW",
        "15W",
        "#2",
        "FRI#5",
        "@daily",
        "@hourly",
        "?",
        "31",
        "29 2",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "UTC",
        "Etc/GMT+12",
        "Africa/El_Aaiun",
        "Pacific/Apia",
        "00-",
        "-01",
        "0af7651916cd43dd8448eb211c80319c",
        "10.0.0.0/8",
        "[::1]",
        "*.example.com",
        "::ffff:127.0.0.1",
        "s3cr3t-of-many-letters",
        "czNjcjN0",
        "postgres://u:p@h/d",
        "forever",
    ],
    make: || {
        redact::add(&["s3cr3t-of-many-letters".to_owned(), "äöü-geheim".to_owned()], &["p\"a's s".to_owned()]);
        Box::new(Words)
    },
};

const SEEDS: &[[&str; 3]] = &[
    ["cron", "*/5 9-17 * * MON-FRI", "Europe/Berlin"],
    ["cron", "30 2 31 3 *", "Europe/Berlin"],
    ["cron", "0 0 29 2 *", "UTC"],
    ["cron", "@daily", "Australia/Lord_Howe"],
    ["cron", "0 0 L * FRI#5", "Pacific/Apia"],
    ["cron", "15 10 15W * ?", "America/New_York"],
    ["span", "500ms", ""],
    ["span", "36500d", ""],
    ["retention", "30d", "forever"],
    ["place", "1.4.3.9", ""],
    ["trace", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""],
    ["target", "10.0.0.0/8", "*.example.com"],
    ["hide", "a s3cr3t-of-many-letters b czNjcjN0LW9mLW1hbnktbGV0dGVycw== postgres://u:p@h/d", ""],
    ["state", "completed", ""],
];

struct Words;

/// Not every instant is one that the database knows.
const INSTANTS: [i64; 6] = [0, 1_700_000_000, 1_711_846_799, 4_102_444_800, 10_413_792_000, -62_135_596_800];

fn cron(text: &str, zone: &str) -> Result<(), String> {
    let Ok(cron) = Cron::parse(text, zone).map_err(|e| e.to_string()) else { return Ok(()) };
    for at in INSTANTS.iter().filter_map(|at| DateTime::<Utc>::from_timestamp(*at, 0)) {
        if let Some(next) = cron.next(at)
            && next <= at
        {
            return Err(format!("the instant after {at} is {next}"));
        }
        let until = at + chrono::TimeDelta::days(40);
        let fires = cron.fires(at, until, 100);
        if fires.len() > 100 || fires.iter().any(|f| *f <= at || *f > until) || !fires.is_sorted() {
            return Err(format!("between {at} and {until}: {fires:?}"));
        }
        let all = cron.due(CatchUp::All, at, until).len();
        if all > 100 || cron.due(CatchUp::None, at, until).len() > all {
            return Err(format!("{all} are due"));
        }
    }
    Ok(())
}

impl Fuzzed for Words {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = SEEDS.iter().map(|s| joined(s)).collect();
        all.extend(stepd::rules::cron::zones().map(|zone| joined(&["cron", "*/10 * * * *", zone])));
        all
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [what, text, more] = fields(input);
        match &*what {
            "cron" => return cron(&text, &more),
            "span" => drop(parse_duration(&text).map_err(|e| e.len())),
            "place" => {
                if let Ok(place) = text.parse::<Place>() {
                    assert_eq!(place.to_string().parse(), Ok(place));
                }
            }
            "trace" => drop(ids::parsed(&text)),
            "target" => {
                for one in [&text, &more] {
                    if let Ok(target) = one.parse::<Allowed>() {
                        drop(format!("{target:?}"));
                    }
                }
            }
            "retention" => {
                let mut config = Config::default();
                for (state, text) in [("completed", &text), ("failed", &more)] {
                    let _ = retention::span(text);
                    config.retention.insert(state.to_owned(), text.to_string());
                }
                drop(config.retention());
            }
            "state" => {
                let (run, step) = (RunState::from_word(&text), StepState::from_word(&text));
                assert!(run.is_none_or(|s| s.as_str() == text) && step.is_none_or(|s| s.as_str() == text));
            }
            _ => {
                let hidden = redact::hide(&text);
                if hidden.contains("s3cr3t-of-many-letters") {
                    return Err("a secret is not hidden".to_owned());
                }
                let _ = (redact::hide_end(&text), redact::hide_start(&text));
                return parse_duration(&more).map_or_else(|why| fit_for_people(&why).or(Ok(())), |_| Ok(()));
            }
        }
        Ok(())
    }
}
