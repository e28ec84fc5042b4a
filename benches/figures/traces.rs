//! Traces: what their export takes from the work, all runs sampled: to a collector that takes everything, and to one that never answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Bench;
use super::report::{Report, Target, listed, median};
use super::server::Db;
use super::steps::RUNS;
use super::worker::Worker;

/// A collector on this machine: it reads, and counts, and takes; or it reads and says nothing.
struct Collector {
    url: String,
    bytes: Arc<AtomicU64>,
}

impl Collector {
    async fn start(answers: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1/traces", listener.local_addr()?);
        let bytes = Arc::<AtomicU64>::default();
        let counted = bytes.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the bench")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
                tokio::spawn(async move { serve(stream, answers, &counted).await });
            }
        });
        Ok(Self { url, bytes })
    }
}

/// Request after request of one connection.
async fn serve(mut stream: TcpStream, answers: bool, counted: &AtomicU64) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
        while buffer.len() < head + length {
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        }
        buffer.drain(..head + length);
        counted.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
        if answers {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok()?;
        }
    }
}

const LEFT: &str = "SELECT count(*)::float8 FROM stepd_engine.trace_notes";

/// Steps a second, and how long after the last end the last trace was delivered.
async fn drain(bench: &Bench, db: &Db, collector: Option<&Collector>, waits: bool) -> Result<(f64, f64)> {
    db.execute("DELETE FROM stepd_engine.trace_targets").await?;
    db.execute("DELETE FROM stepd_engine.trace_notes").await?;
    let place = db.place().await?;
    db.execute(&format!("INSERT INTO stepd.jobs (workflow) SELECT 'ten' FROM generate_series(1, {RUNS}) i")).await?;
    db.execute("CHECKPOINT").await?;
    let worker = Worker::telling(&bench.server, db, collector.map(|c| c.url.as_str())).await?;
    db.ended(&place, RUNS).await?;
    let ended = Instant::now();
    while waits && db.number(LEFT).await? > 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = ended.elapsed().as_secs_f64();
    worker.stop().await?;
    Ok((db.drained_per_second(&place).await? * 10.0, after))
}

/// By turns, so that whatever else the machine does falls on all three.
pub async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.full { 9 } else { 6 };
    let (well, sick) = (Collector::start(true).await?, Collector::start(false).await?);
    let db = bench.server.database().await?;
    drain(bench, &db, None, false).await?;
    let (mut off, mut on, mut hangs, mut late) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each is first, second and third in turn: tables that grow, and what the one before has left, fall on all.
        for place in 0..3 {
            match (round + place) % 3 {
                0 => off.push(drain(bench, &db, None, false).await?.0),
                1 => {
                    let (rate, after) = drain(bench, &db, Some(&well), true).await?;
                    on.push(rate);
                    late.push(after);
                }
                _ => hangs.push(drain(bench, &db, Some(&sick), false).await?.0),
            }
        }
        eprintln!("    {:.0} / {:.0} / {:.0} steps/s", off[off.len() - 1], on[on.len() - 1], hangs[hangs.len() - 1]);
    }
    let without = format!("without {}", listed(&off));
    let note = format!("{}; {without} steps/s", listed(&on));
    report.add("steps, traced / not", median(&on) / median(&off), "", Some(Target::AtLeast(0.95)), note);
    let note = format!("{}; {without} steps/s", listed(&hangs));
    report.add(
        "steps, collector hangs / not traced",
        median(&hangs) / median(&off),
        "",
        Some(Target::AtLeast(0.95)),
        note,
    );
    let spans = f64::from(RUNS) * 21.0;
    report.plain("traces delivered after the last end", median(&late), "s", format!("{spans:.0} spans a round"));
    let bytes = u32::try_from(well.bytes.load(Ordering::Relaxed) / 1024).map_or(0.0, f64::from) * 1024.0;
    report.plain("bytes of a span, packed", bytes / (spans * f64::from(u32::try_from(rounds)?)), "B", "");
    Ok(())
}
