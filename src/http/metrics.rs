//! `/metrics`: the page for Prometheus.
//!
//! What is counted in this process is always there. The figures of the whole database are asked for when somebody scrapes, by one
//! task for all who do, and not again before they have rested; a scrape waits for them a little while at the most. When the database does
//! not answer they are absent, and `stepd_database_up` is 0: the page itself never fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, watch};

use crate::db::metrics::{Facts, Failed, QueueFigures, facts, failed, queues};
use crate::db::operate::{TableSize, tables};
use crate::db::{DbError, server};
use crate::telemetry::metrics::counted::QUEUES;
use crate::telemetry::metrics::{Form, Page, about};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;

/// Figures are good for this long; those that were dear for [`DEAR`] times as long as they took.
const RESTS: Duration = Duration::from_secs(3);
const DEAR: u32 = 20;

/// Sizes change slowly, and every file of a table is looked at for them.
const SIZES_REST: Duration = Duration::from_secs(60);

/// A scrape waits for new figures at the most; Prometheus waits for ten seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// Older figures are not shown: they would say that something is, which was.
const OLDEST: Duration = Duration::from_secs(120);

/// Without an answer after this long, the database is away.
const ANSWERS: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(site): State<Arc<Site>>, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    site.figures.asked().await;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = Form::of(accept);
    Ok(([(header::CONTENT_TYPE, form.content_type())], site.metrics.page(form)).into_response())
}

/// The figures of the whole database, for all who scrape.
pub(super) struct Figures {
    wanted: Notify,
    /// How often they have been asked for, well or not.
    looks: watch::Sender<u64>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Did the database answer when it was last asked?
    up: bool,
    answer: Duration,
    /// The next look is worth its cost from then on.
    next: Option<Instant>,
    seen: Option<(Instant, Seen)>,
    sizes: Option<(Instant, Vec<TableSize>)>,
}

struct Seen {
    queues: Vec<QueueFigures>,
    failed: Vec<Failed>,
    facts: Facts,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self { wanted: Notify::new(), looks: watch::Sender::new(0), known: Mutex::default() }
    }

    /// Somebody scrapes: has new figures made, if it is time, and waits for them a little while.
    async fn asked(&self) {
        let mut looks = self.looks.subscribe();
        looks.mark_unchanged();
        if self.is_good() {
            return;
        }
        self.wanted.notify_one();
        let _ = tokio::time::timeout(PATIENCE, looks.changed()).await;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the figures for all who scrape, as long as somebody does.
    pub(super) async fn make(&self, readers: &PgPool) {
        loop {
            self.wanted.notified().await;
            if self.is_good() {
                continue;
            }
            let began = Instant::now();
            let sizes_due = self.known().sizes.as_ref().is_none_or(|(at, _)| at.elapsed() >= SIZES_REST);
            let looked = tokio::time::timeout(ANSWERS, self.look(readers, sizes_due)).await;
            // Those whose work it is tell it.
            match looked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "no figures for the metrics"),
                Err(_) => tracing::debug!("no figures for the metrics: the database says nothing"),
            }
            self.known().next = Some(Instant::now() + RESTS.max(began.elapsed() * DEAR));
            self.looks.send_modify(|looks| *looks += 1);
        }
    }

    /// Need nobody look again yet?
    fn is_good(&self) -> bool {
        self.known().next.is_some_and(|next| Instant::now() < next)
    }

    async fn look(&self, readers: &PgPool, sizes_due: bool) -> Result<(), DbError> {
        let began = Instant::now();
        let answered = async {
            let mut conn = readers.acquire().await?;
            server::answers(&mut *conn).await?;
            Ok::<_, DbError>(conn)
        };
        let answered = answered.await;
        {
            let mut known = self.known();
            (known.up, known.answer) = (answered.is_ok(), began.elapsed());
        }
        let mut conn = answered?;
        let seen = seen(&mut conn).await?;
        self.known().seen = Some((began, seen));
        if sizes_due {
            let sizes = tables(&mut *conn).await?;
            self.known().sizes = Some((began, sizes));
        }
        Ok(())
    }

    /// Writes what is known.
    pub(super) fn write(&self, page: &mut Page) {
        let known = self.known();
        page.flag(&about::DATABASE_UP, &[], known.up);
        if !known.up {
            return;
        }
        page.set(&about::DATABASE_ANSWER, &[], known.answer.as_secs_f64());
        let Some((at, seen)) = known.seen.as_ref().filter(|(at, _)| at.elapsed() < OLDEST) else { return };
        page.set(&about::FIGURES_AGE, &[], at.elapsed().as_secs_f64());
        seen.write(page);
        for table in known.sizes.iter().flat_map(|(_, tables)| tables) {
            let name = table.name.as_str();
            number(page, &about::TABLE_BYTES, &[name], table.bytes);
            number(page, &about::INDEX_BYTES, &[name], table.index_bytes);
            number(page, &about::TABLE_ROWS, &[name], table.live.max(table.rows));
            number(page, &about::DEAD_ROWS, &[name], table.dead);
        }
    }
}

async fn seen(conn: &mut PgConnection) -> Result<Seen, DbError> {
    let most = i64::try_from(QUEUES).unwrap_or(i64::MAX);
    Ok(Seen { queues: queues(conn, most).await?, failed: failed(conn).await?, facts: facts(conn).await? })
}

impl Seen {
    fn write(&self, page: &mut Page) {
        let mut failed = std::collections::BTreeMap::<&str, i64>::new();
        for f in &self.failed {
            let known = self.queues.iter().any(|q| q.name == f.queue);
            *failed.entry(if known { &f.queue } else { "other" }).or_default() += f.runs;
        }
        for q in &self.queues {
            let name = q.name.as_str();
            page.set(&about::OLDEST_READY, &[name], q.oldest_ready);
            page.flag(&about::QUEUE_PAUSED, &[name], q.is_paused);
            failed.entry(name).or_default();
            let states = [
                ("queued", q.queued),
                ("held", q.held),
                ("running", q.running),
                ("scheduled", q.scheduled),
                ("waiting", q.waiting),
                ("resuming", q.resuming),
                ("paused", q.paused),
            ];
            for (state, n) in states {
                number(page, &about::RUNS, &[name, state], n);
            }
        }
        for (queue, runs) in failed {
            number(page, &about::FAILED_RUNS, &[queue], runs);
        }
        let Facts {
            places,
            oldest_due,
            schedule_lag,
            breakers,
            alive,
            dead,
            slots,
            oldest_transaction,
            held_back,
            history,
        } = self.facts.clone();
        number(page, &about::LOCKS_HELD, &["key"], places);
        number(page, &about::LOCKS_HELD, &["lease"], self.queues.iter().map(|q| q.running).sum());
        page.set(&about::OLDEST_DUE, &[], oldest_due);
        page.set(&about::SCHEDULE_LAG, &[], schedule_lag);
        number(page, &about::STEP_BREAKERS, &[], breakers);
        number(page, &about::WORKERS, &["true"], alive);
        number(page, &about::WORKERS, &["false"], dead);
        number(page, &about::SLOTS_OF_ALL, &[], slots);
        page.set(&about::OLDEST_TRANSACTION, &[], oldest_transaction);
        number(page, &about::HELD_BACK, &[], held_back);
        if let Some(age) = history {
            page.set(&about::HISTORY_AGE, &[], age);
        }
    }
}

fn number(page: &mut Page, about: &'static about::About, labels: &[&str], n: i64) {
    #[expect(clippy::cast_precision_loss, reason = "rows and bytes, below 2^52")]
    page.set(about, labels, n as f64);
}

/// Methods that have a name of their own in the metrics.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// Counts every request, by the route that it came by.
pub(super) async fn count(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = METHODS.into_iter().find(|m| *m == request.method().as_str()).unwrap_or("other");
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    site.metrics.requests.answered(method, route, response.status().as_str(), began.elapsed());
    response
}
