//! The HTTP server beside much history: each page's time as its reader sees it, and what open streams cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use tokio::task::JoinSet;

use super::Bench;
use super::report::{Report, Target, listed, median, quantile};
use super::round::JOBS;
use super::server::Db;
use super::worker::Worker;

/// Of a run that is larger than any page need be: it opens, and that is measured.
const HUGE: [(&str, &str); 2] = [
    ("timeline of 100,000 items", "/v1/runs/@H/timeline"),
    ("timeline of 100,000 items, unfolded", "/v1/runs/@H/timeline?under=docs"),
];

/// 1 million ended runs, 100,000 live ones, two of 10,000 steps, one of 100,000.
const DATA: &str = include_str!("site.sql");

/// The large runs.
const ENDED: &str = "0199ffff-0000-7000-8000-000000000001";
const LIVE: &str = "0199ffff-0000-7000-8000-000000000002";
const LARGEST: &str = "0199ffff-0000-7000-8000-000000000003";

/// How often each page is read.
const READS: u32 = 40;

/// A page may take so long, in ms.
const PAGE: Target = Target::AtMost(100.0);

/// Open streams.
const STREAMS: [usize; 4] = [0, 1, 10, 100];

/// What is read, but for the cursors and times, which depend on now.
const PAGES: [(&str, &str); 35] = [
    ("list", "/v1/runs"),
    ("list of 500", "/v1/runs?limit=500"),
    ("state=failed", "/v1/runs?state=failed"),
    ("state=waiting", "/v1/runs?state=waiting"),
    ("state=running, none", "/v1/runs?state=running"),
    ("workflow, common", "/v1/runs?workflow=wf_00"),
    ("workflow, 20 runs", "/v1/runs?workflow=wf_48"),
    ("workflow, none", "/v1/runs?workflow=wf_49"),
    ("workflow, 20 runs, failed", "/v1/runs?workflow=wf_48&state=failed"),
    ("queue", "/v1/runs?queue=q3"),
    ("queue, none", "/v1/runs?queue=none"),
    ("label, 200 runs", "/v1/runs?label=customer=c123"),
    ("label, 66,000 runs", "/v1/runs?label=region=eu"),
    ("label, none", "/v1/runs?label=customer=none"),
    ("one run", "/v1/runs/@E"),
    ("10,000 steps, timeline", "/v1/runs/@E/timeline"),
    ("10,000 steps, live, timeline", "/v1/runs/@L/timeline"),
    ("10,000 steps, unfolded", "/v1/runs/@L/timeline?under=docs"),
    ("10,000 steps, a page of 1,000", "/v1/runs/@E/steps?limit=1000"),
    ("10,000 steps, live, a page of 1,000, outputs", "/v1/runs/@L/steps?limit=1000&outputs=true"),
    ("history of 20,000 lines, a page of 1,000", "/v1/runs/@E/history"),
    ("history of 20,000 lines, the newest 1,000", "/v1/runs/@E/history?newest=true"),
    ("two runs of 10,000 steps, compared", "/v1/compare?a=@E&b=@L"),
    ("waiting", "/v1/waiting"),
    ("stats", "/v1/stats"),
    ("workflows", "/v1/workflows"),
    ("queues", "/v1/queues"),
    ("workers", "/v1/workers"),
    ("older: executions", "/workflow/executions"),
    ("older: execution of 10,000 steps", "/workflow/execution/@E"),
    ("older: rows of 10,000 steps", "/executions/@L"),
    ("older: workflows", "/workflows"),
    ("older: a workflow's executions", "/workflows/wf_00/executions"),
    ("older: … the 10,000th", "/workflows/wf_00/executions?offset=10000"),
    ("older: paused, a thousand", "/executions/paused"),
];

pub async fn pages(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    db.execute(DATA).await?;
    db.execute("VACUUM ANALYZE").await?;
    db.execute("CHECKPOINT").await?;
    let (worker, site) = serving(bench, &db, Some("nowhere")).await?;
    let client = client()?;
    let mut worst = 0.0_f64;
    for (name, path) in pages_of(&db).await? {
        let (p95, note) = read(&client, &site, &path).await?;
        worst = worst.max(p95);
        report.add(&format!("page p95, {name}"), p95, "ms", Some(PAGE), note);
    }
    report.add("page p95, the slowest", worst, "ms", Some(PAGE), "1 M ended, 100,000 live runs");
    for (name, path) in HUGE {
        let (p95, note) = read(&client, &site, path).await?;
        report.plain(&format!("page p95, {name}"), p95, "ms", note);
    }
    worker.stop().await
}

/// Reads a page again and again: its p95 in ms, and what else there is to say of it.
async fn read(client: &Client, site: &str, path: &str) -> Result<(f64, String)> {
    let url = format!("{site}/api{}", path.replace("@E", ENDED).replace("@L", LIVE).replace("@H", LARGEST));
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..READS {
        let began = Instant::now();
        let answer = client.get(&url).send().await?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        bytes = answer.bytes().await?.len();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok((quantile(&times, 0.95), format!("p50 {:.1}; {} kB", median(&times), bytes / 1024)))
}

/// All pages; the deep ones begin behind a share of all runs.
async fn pages_of(db: &Db) -> Result<Vec<(String, String)>> {
    let mut pages: Vec<_> = PAGES.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
    for (name, share, filter) in
        [("page in the middle", 0.5, ""), ("last page", 0.99, ""), ("deep, state=failed", 0.8, "&state=failed")]
    {
        let at = format!(
            "SELECT lpad(to_hex((extract(epoch FROM clock_timestamp() - {share} * interval '30 days') * 1000)::bigint), 12, '0')"
        );
        let at = db.text(&at).await?;
        pages.push((
            name.to_owned(),
            format!("/v1/runs?cursor={}-{}-7000-8000-000000000000{filter}", &at[..8], &at[8..]),
        ));
    }
    let since = "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '7 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    pages.push((
        "since a week, state=failed".to_owned(),
        format!("/v1/runs?state=failed&since={}", db.text(since).await?),
    ));
    Ok(pages)
}

fn client() -> Result<Client> {
    // An error: it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().no_proxy().build()?)
}

/// A daemon with a server on a port of its own; it serves one queue, or all.
async fn serving(bench: &Bench, db: &Db, queue: Option<&str>) -> Result<(Worker, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let worker = Worker::with_site(&bench.server, db, &address, queue).await?;
    Ok((worker, format!("http://{address}")))
}

/// What open streams of all runs cost: Postgres, the daemon, and the drain beside them.
pub async fn streams(bench: &Bench, report: &mut Report) -> Result<()> {
    let span = Duration::from_secs(if bench.full { 60 } else { 15 });
    let mut first = 0.0;
    for n in STREAMS {
        let db = bench.server.database().await?;
        let (worker, site) = serving(bench, &db, None).await?;
        let open = open(&site, n).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = (db.cost().await?.1, bench.server.cpu()?, worker.cpu()?);
        tokio::time::sleep(span).await;
        let after = (db.cost().await?.1, bench.server.cpu()?, worker.cpu()?);
        let each = |a: f64, b: f64| (b - a) / span.as_secs_f64();
        let cpu = format!(
            "Postgres {:.2} %, daemon {:.2} % of a core",
            each(before.1, after.1) * 100.0,
            each(before.2, after.2) * 100.0
        );
        report.plain(&format!("{n} open streams, idle"), each(before.0, after.0), "statements/s", cpu);
        let mut rates = Vec::new();
        for _ in 0..3 {
            rates.push(drained(&db).await?);
        }
        let rate = median(&rates);
        if n == 0 {
            first = rate;
        }
        report.plain(&format!("drain beside {n} open streams"), rate, "jobs/s", listed(&rates));
        report.plain(&format!("drain beside {n} open streams / none"), rate / first, "", "");
        drop(open);
        worker.stop().await?;
    }
    Ok(())
}

/// A drain; its rate.
async fn drained(db: &Db) -> Result<f64> {
    let place = db.place().await?;
    db.execute(&format!("INSERT INTO stepd.jobs (workflow) SELECT 'noop' FROM generate_series(1, {JOBS})")).await?;
    db.ended(&place, JOBS).await?;
    db.drained_per_second(&place).await
}

/// What a scrape of the metrics every second costs the drain: drains with it and without, in turn.
pub async fn scrapes(bench: &Bench, report: &mut Report) -> Result<()> {
    let db = bench.server.database().await?;
    let (worker, site) = serving(bench, &db, None).await?;
    let (client, url) = (client()?, format!("{site}/metrics"));
    let (mut without, mut with, mut times, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The first one finds everything cold.
    drained(&db).await?;
    for _ in 0..if bench.full { 10 } else { 4 } {
        without.push(drained(&db).await?);
        let mut drain = std::pin::pin!(drained(&db));
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                rate = &mut drain => break with.push(rate?),
                _ = second.tick() => {
                    let began = Instant::now();
                    let answer = client.get(&url).send().await?;
                    ensure!(answer.status().is_success(), "{url}: {}", answer.status());
                    bytes = answer.bytes().await?.len();
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    report.plain("drain, not scraped", median(&without), "jobs/s", listed(&without));
    report.plain("drain, scraped every second", median(&with), "jobs/s", listed(&with));
    let target = Some(Target::AtLeast(0.95));
    report.add("drain, scraped / not scraped", median(&with) / median(&without), "", target, "medians, in turn");
    let note = format!("{} scrapes, {} kB", times.len(), bytes / 1024);
    report.plain("scrape beside a drain, median", median(&times), "ms", note);
    worker.stop().await
}

/// Opens streams, each of which is read for as long as this lives.
async fn open(site: &str, n: usize) -> Result<JoinSet<()>> {
    let (mut readers, client) = (JoinSet::new(), client()?);
    for _ in 0..n {
        let mut stream = client.get(format!("{site}/api/v1/stream")).send().await.context("no stream")?;
        ensure!(stream.status().is_success(), "a stream: {}", stream.status());
        readers.spawn(async move { while let Ok(Some(_)) = stream.chunk().await {} });
    }
    Ok(readers)
}
