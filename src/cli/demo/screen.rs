//! What the demo says: numbered chapters, dim quotations, a bar while the run is at work. On a terminal the bar
//! moves; elsewhere it is a plain line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anstream::println;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize as _;

/// Plain lines come this far apart.
const PLAIN_EVERY: Duration = Duration::from_millis(700);

const NEXT: &str = "export DATABASE_URL=postgres://user:password@host/database
stepd serve --workflows ./workflows
psql \"$DATABASE_URL\" -c \"INSERT INTO stepd.jobs (workflow) VALUES ('yours')\"";

/// The terminal, or the pipe.
pub(super) struct Screen {
    /// Both ends are a person's: bars may move, and questions be asked.
    pub(super) interactive: bool,
    bars: bool,
    chapter: u32,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { interactive: terminal && std::io::stdin().is_terminal(), bars: terminal && !dumb, chapter: 0 }
    }

    /// A line of its own.
    pub(super) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// The next chapter.
    pub(super) fn chapter(&mut self, title: &str, more: &str) {
        self.chapter += 1;
        println!("\n{} {}  {}", self.chapter.bold().cyan(), title.bold(), more.dimmed());
    }

    /// A part without a number.
    pub(super) fn part(&self, title: &str, more: &str) {
        println!("\n{}  {}", title.bold(), more.dimmed());
    }

    /// A line below a chapter.
    pub(super) fn line(&self, text: &str) {
        println!("  {text}");
    }

    /// A file or a statement, as it is.
    pub(super) fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("  {} {}", "│".dimmed(), line.green());
        }
    }

    /// The verdict, and what to do next.
    pub(super) fn epilogue(&self, proved: bool, theirs: bool) {
        if proved {
            println!(
                "\n{} every item exactly once, no finished step twice, and nobody had to do anything.",
                "Proved:".bold().green()
            );
        } else {
            println!("\n{} see above; this is a bug, please report it with this output.", "NOT PROVED:".bold().red());
        }
        match theirs {
            false => println!("{}", "The server, the workers and their folder are gone.".dimmed()),
            true => {
                println!("{}", "The workers and stepd_demo are gone; stepd's schema stays in your database.".dimmed())
            }
        }
        self.part("Next", "your own database, your own files");
        self.quote(NEXT);
    }

    /// A bar of `of` items.
    pub(super) fn bar(&self, of: i64) -> Bar {
        let bar = self.bars.then(|| {
            let bar = ProgressBar::with_draw_target(u64::try_from(of).ok(), ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("  {bar:30.cyan/dim} {pos:>2}/{len} {msg}") {
                bar.set_style(style.progress_chars("━━─"));
            }
            bar
        });
        Bar { bar, of, started: Instant::now(), told: None, last: String::new() }
    }
}

/// How far the run is.
pub(super) struct Bar {
    bar: Option<ProgressBar>,
    of: i64,
    started: Instant,
    told: Option<Instant>,
    last: String,
}

impl Bar {
    /// Shows `done`, and a word on it.
    pub(super) fn show(&mut self, done: i64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(done).unwrap_or(0));
            bar.set_message(format!("{message}  {:.1} s", self.started.elapsed().as_secs_f64()));
            return;
        }
        let line = format!("{done:>2}/{} {message}", self.of);
        if self.last != line && self.told.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) {
            println!("  {line}");
            self.told = Some(Instant::now());
            self.last = line;
        }
    }

    /// Leaves the bar as it stands, with a last word.
    pub(super) fn leave(self, done: i64, message: &str) {
        let line = format!("{done:>2}/{} {message}", self.of);
        match self.bar {
            // The bar's own last line would lack its end: what follows would stand beside it.
            Some(bar) => {
                bar.finish_and_clear();
                println!("  {} {line}", drawn(done, self.of));
            }
            None if self.last != line => println!("  {line}"),
            None => {}
        }
    }
}

/// The bar as text.
fn drawn(done: i64, of: i64) -> String {
    let full = usize::try_from(done * 30 / of.max(1)).unwrap_or(0).min(30);
    format!("{}{}", "━".repeat(full).cyan(), "─".repeat(30 - full).dimmed())
}
