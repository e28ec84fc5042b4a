//! Logs: one line when something happens, none when idle.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::ChronoUtc;

/// Starts logging to stderr: `json` lines, or `pretty` ones; unset, pretty on a terminal.
///
/// A second call in one process changes nothing.
pub fn start(format: &str, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!("{level},sqlx::postgres::notice=error,sqlx_core::pool=error,sqlx::pool=error"))
    });
    let time = ChronoUtc::new("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned());
    let json = format == "json" || (format != "pretty" && !std::io::stderr().is_terminal());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_timer(time).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Already started: a test runs several commands in one process.
    drop(started);
}
