//! What steps write while they work: kept, followed, bounded, in nobody's way.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use stepd::db::logs::{self, Batch, Place, Row, Which};
use stepd::{Ctx, Halt, LogLevel, Stepd};
use uuid::Uuid;

use crate::cli::stepd;
use crate::http::{Ground, is_problem};
use crate::support::{Db, Files, SOON, Spec, holds_for, wait_until};

const SECRET: &str = "step-log/secret+17";

const WRITES: &str = r#"
name: writes
resume: never
steps:
  - id: good
    run: |
      printf '\033[1;31mred\033[0m key %s\n' "$KEY" >&2
      printf 'no end' >&2
      echo '"output"'
    env: {KEY: "${{ secrets.api }}"}
  - {id: silent, run: "true"}
  - {id: plain, set: 1}
  - id: bad
    run: |
      echo "out $STEPD_ATTEMPT"; echo "err $STEPD_ATTEMPT" >&2; exit 3
    retry: {max_attempts: 2, backoff: constant, initial: 10ms}
"#;

/// The lines that are kept of a run: `key#attempt stream text`.
async fn kept(db: &Db, run: &str) -> Vec<String> {
    db.all(format!(
        "SELECT concat(key, '#', attempt, ' ', stream, ' ', text) FROM stepd.logs WHERE run = '{run}' ORDER BY epoch, chunk, line"
    ))
    .await
}

async fn keeps(db: &Db, run: &str, text: &str) {
    wait_until(&format!("`{text}` is kept"), SOON, async || kept(db, run).await.iter().any(|l| l.contains(text))).await;
}

#[tokio::test]
async fn what_a_step_writes_is_kept_attempt_by_attempt_and_read_in_sql_from_the_shell_and_from_the_api() {
    let g = Ground::with(&format!("[secrets]\napi = \"{SECRET}\"\n")).await;
    std::fs::write(g.files.workflows().join("writes.yaml"), WRITES).unwrap();
    g.worker.hup();
    wait_until("the workflow is there", SOON, async || {
        g.db.count("SELECT count(*) FROM stepd.workflows WHERE name = 'writes'").await == 1
    })
    .await;
    let run = g.db.enqueue("writes", "{}").await;
    g.db.reaches(&run, "failed", SOON).await;
    keeps(&g.db, &run, "out 2").await;
    let expected = [
        "good#1 stderr red key ***",
        "good#1 stderr no end",
        "bad#1 stderr err 1",
        "bad#1 stdout out 1",
        "bad#2 stderr err 2",
        "bad#2 stdout out 2",
    ];
    let mut lines = kept(&g.db, &run).await;
    let first: Vec<String> = lines.drain(..2).collect();
    assert_eq!(first, expected[..2], "its stdout is its output");
    lines.sort();
    assert_eq!(lines, expected[2..]);
    let late = "SELECT count(*) FROM stepd.logs l JOIN stepd.steps s USING (run, key) WHERE l.at NOT BETWEEN s.started_at - interval '1 s' AND s.ended_at + interval '1 s'";
    assert_eq!(g.db.count(late).await, 0, "lines are dated by the server's clock");

    let told = stepd(&g.db, &["logs", &run]).await.is(0).out;
    let place = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text} is not in {told}"));
    assert!(
        place("good | red key ***") < place("good | no end") && place("good | no end") < place("bad#2 | err 2"),
        "{told}"
    );
    assert!(
        place("step completed    good") < place("bad | err 1") && place("attempt failed") < place("run failed"),
        "{told}"
    );
    let of_step = stepd(&g.db, &["logs", &run, "--step", "bad", "--attempt", "2", "-o", "jsonl"]).await.is(0).out;
    let of_step: Vec<Value> = of_step.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(of_step.iter().all(|l| l["key"] == "bad" && l["attempt"] == 2), "{of_step:?}");
    assert_eq!(of_step.iter().filter(|l| l["event"] == "written").count(), 2);
    assert!(!stepd(&g.db, &["logs", &run, "--since", "2100-01-01"]).await.is(0).out.contains("red"));

    let page = g.get(&format!("/runs/{run}/logs?step=good")).await;
    assert_eq!(page["lines"][0]["text"], "red key ***");
    assert_eq!(
        (&page["lines"][1]["line"], &page["lines"][1]["level"], &page["more"]),
        (&2.into(), &"info".into(), &false.into())
    );
    let next = g.get(&format!("/runs/{run}/logs?step=good&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!((&next["lines"], &next["next"]), (&json!([]), &page["next"]));
    let ask = async |path: String| g.client.get(format!("{}/api/v1{path}", g.site)).send().await.unwrap();
    is_problem(ask(format!("/runs/{run}/logs?after=x")).await, 400, "is no place in these logs").await;
    is_problem(ask(format!("/runs/{}/logs", Uuid::now_v7())).await, 404, "there is no run").await;
    let stored: String = g.db.one("SELECT string_agg(l::text, '') FROM stepd_engine.logs l").await;
    assert!(!stored.contains("step-log") && !stored.contains("\\u001b"), "{stored}");
}

#[tokio::test]
async fn a_log_is_followed_while_it_is_written_and_over_the_death_of_a_worker() {
    let long = "name: long\nsteps:\n  - id: work\n    run: |\n      echo \"by claim $STEPD_EPOCH\" >&2; echo \"out $STEPD_EPOCH\"\n      while [ ! -e @DIR@/go ]; do sleep 0.05; done; echo done >&2\n";
    let (db, files) = (Db::new().await, Files::new([long]));
    let spec = Spec::new(&db, &files).http();
    let (mut one, mut two) = (spec.ready().await, spec.clone().env("STEPD_CONCURRENCY", 5).ready().await);
    let run = db.enqueue("long", "{}").await;
    keeps(&db, &run, "by claim 1").await;
    keeps(&db, &run, "stdout out 1").await;
    let follow = Command::new(env!("CARGO_BIN_EXE_stepd"))
        .args(["logs", "-f", &run])
        .env("DATABASE_URL", &db.url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut follow = Ended(follow);
    let said = Arc::<Mutex<Vec<String>>>::default();
    let (into, out) = (said.clone(), follow.0.stdout.take().unwrap());
    let reader =
        std::thread::spawn(move || BufReader::new(out).lines().for_each(|l| into.lock().unwrap().push(l.unwrap())));
    let told = |text: &str| said.lock().unwrap().iter().any(|l| l.contains(text));
    wait_until("the first line is told", SOON, async || told("work | by claim 1")).await;
    let site = two.site().await;
    let first: Uuid = db.one(format!("SELECT worker FROM stepd.runs WHERE id = '{run}'")).await;
    let pid: i32 = db.one(format!("SELECT pid FROM stepd.workers WHERE id = '{first}'")).await;
    let (dies, site) = if pid == one.pid() { (&mut one, site) } else { (&mut two, one.site().await) };
    dies.kill9();
    wait_until("the next worker's line is told", SOON, async || told("work | by claim 2") || told("work | by claim 3"))
        .await;
    let client = crate::http::client(Default::default());
    let stream = client.get(format!("{site}/api/v1/runs/{run}/logs/stream")).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
    let events: Vec<_> = tokio::time::timeout(SOON, stream.bytes_stream().collect::<Vec<_>>()).await.unwrap();
    let text: String = events.into_iter().map(|c| String::from_utf8_lossy(&c.unwrap()).into_owned()).collect();
    assert!(text.contains("by claim 1") && text.contains("\"text\":\"done\"") && text.contains("event: end"), "{text}");
    wait_until("the follower ends by itself", SOON, async || follow.0.try_wait().unwrap().is_some()).await;
    reader.join().unwrap();
    assert!(told("work | done") && told("run completed"), "{:?}", said.lock().unwrap());
    let lines = said.lock().unwrap();
    let written: Vec<&String> = lines.iter().filter(|l| l.contains(" | ")).collect();
    let twice: Vec<_> = written.iter().filter(|l| written.iter().filter(|x| x == l).count() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Killed when it is dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn who_writes_without_end_keeps_the_last_lines_and_stands_in_nobodys_way() {
    let flood = "name: flood\nsteps:\n  - {id: pour, run: 'seq 1 2000000 >&2'}\n";
    let small = "name: small\nsteps: [{id: a, run: 'true'}, {id: b, set: 1}]\n";
    let (db, files) = (Db::new().await, Files::new([flood, small]));
    let mut worker = Spec::new(&db, &files).env("STEPD_STEP_LOG_BYTES", 100_000).ready().await;
    let run = db.enqueue("flood", "{}").await;
    // It may be over before anybody has looked.
    wait_until("it pours", SOON, async || {
        db.count("SELECT count(*) FROM stepd.steps WHERE key = 'pour' AND state IN ('running', 'completed')").await == 1
    })
    .await;
    db.exec("INSERT INTO stepd.jobs (workflow) SELECT 'small' FROM generate_series(1, 20)").await;
    db.all_ended(SOON).await;
    keeps(&db, &run, "stderr 2000000").await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    let lines: Vec<i64> = db.all("SELECT line FROM stepd.logs ORDER BY line").await;
    assert!((500..3_000).contains(&lines.len()), "{}", lines.len());
    assert_eq!(lines, (2_000_001 - lines.len() as i64..=2_000_000).collect::<Vec<_>>(), "the last ones, without a gap");
    assert_eq!(db.count("SELECT count(*) FROM stepd.logs WHERE text <> line::text").await, 0, "each under its number");
    let size: i64 = db.one("SELECT sum(octet_length(lines))::bigint FROM stepd_engine.logs").await;
    assert!(size < 300_000, "{size}");
    let shown: String = db.one("SELECT output::text FROM stepd.steps WHERE key = 'pour'").await;
    assert_eq!(shown, "\"\"");
}

#[tokio::test]
async fn who_writes_nothing_has_no_row_and_where_nothing_is_kept_nobody_has() {
    for (bytes, wanted) in [(262_144, 1), (0, 0)] {
        let (db, files) =
            (Db::new().await, Files::new([WRITES, "name: quiet\nsteps: [{id: a, run: echo 1}, {id: b, set: 2}]\n"]));
        let spec = Spec::new(&db, &files).env("STEPD_STEP_LOG_BYTES", bytes).env("STEPD_SECRETS__API", SECRET);
        let mut worker = spec.ready().await;
        let (quiet, loud) = (db.enqueue("quiet", "{}").await, db.enqueue("writes", "{}").await);
        db.all_ended(SOON).await;
        assert_eq!(worker.drain(SOON).await, Some(0), "with what had been written last");
        assert_eq!(db.count(format!("SELECT count(*) FROM stepd_engine.logs WHERE run = '{quiet}'")).await, 0);
        let rows = db
            .count(format!("SELECT count(DISTINCT key) FROM stepd_engine.logs WHERE run = '{loud}' AND key = 'good'"))
            .await;
        assert_eq!(rows, wanted);
        let details: String =
            db.one(format!("SELECT error -> 'details' ->> 'stderr' FROM stepd.runs WHERE id = '{loud}'")).await;
        assert_eq!(details, "err 2", "a failure tells its own in any case");
    }
}

fn row(worker: Uuid, run: Uuid, epoch: i32, n: i64) -> Row {
    let lines = json!([[0, "stderr", "info", format!("{epoch}.{n}")]]).to_string();
    Row { worker, run, epoch, n, first: n, at: chrono::Utc::now(), attempt: 1, key: "s".into(), lines }
}

#[tokio::test]
async fn lines_are_written_once_by_those_alone_who_have_or_had_the_run() {
    let db = Db::new().await;
    let (worker, gone) = (Uuid::new_v4(), Uuid::new_v4());
    db.exec(format!("INSERT INTO stepd_engine.workers (id, host, pid, version, slots, lease_ms) VALUES ('{worker}', 'h', 1, '0', 1, 15000)")).await;
    let run: Uuid = db
        .one(
            "INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, ended_at, workflow, queue, input, labels)
             VALUES (stepd_engine.uuid7(), 'completed', 2, 5, 0, 0, now(), now(), 'w', 'default', '{}', '{}') RETURNING id",
        )
        .await;
    let mut conn = db.pool.acquire().await.unwrap();
    let mut place = Place::default();
    let rows = vec![
        row(worker, run, 1, 4),
        row(worker, run, 2, 5),
        row(gone, run, 2, 6),
        row(worker, run, 3, 7),
        row(worker, Uuid::now_v7(), 1, 8),
    ];
    for _ in 0..2 {
        logs::write(&mut conn, &Batch { rows: rows.clone(), gone: Vec::new() }).await.unwrap();
    }
    let texts = async |conn: &mut sqlx::PgConnection, place: &mut Place| {
        let (lines, more) = logs::next(conn, run, &Which::default(), place).await.unwrap();
        assert!(!more);
        lines.into_iter().map(|l| l.text).collect::<Vec<_>>()
    };
    assert_eq!(texts(&mut *conn, &mut place).await, ["1.4", "2.5"], "no zombie, no claim to come, no unknown run");
    assert!(texts(&mut *conn, &mut place).await.is_empty());
    // The claim before has had something left to write.
    logs::write(&mut conn, &Batch { rows: vec![row(worker, run, 1, 9)], gone: vec![(run, 1, 4)] }).await.unwrap();
    assert_eq!(texts(&mut *conn, &mut place).await, ["1.9"]);
    assert!(texts(&mut *conn, &mut place).await.is_empty());
    assert_eq!(texts(&mut *conn, &mut Place::default()).await, ["1.9", "2.5"]);
    db.exec(format!("SELECT FROM stepd_engine.remove_runs(ARRAY['{run}'::uuid])")).await;
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.logs").await, 0, "they go with their run");
}

#[tokio::test]
async fn pages_hold_every_line_once_however_many_there_are() {
    let db = Db::new().await;
    let run: Uuid = db
        .one(
            "WITH r AS (INSERT INTO stepd_engine.ended (id, state, epoch, priority, resumes, crashes, ready_at, ended_at, workflow, queue, input, labels)
             VALUES (stepd_engine.uuid7(), 'completed', 2, 5, 0, 0, now(), now(), 'w', 'default', '{}', '{}') RETURNING id),
             l AS (INSERT INTO stepd_engine.logs (run, epoch, n, first, at, attempt, key, lines)
                SELECT r.id, e, n, n * 1000, now(), 1, 's', (SELECT json_agg(json_build_array(i, 'stderr', 'info', n * 1000 + i)) FROM generate_series(0, 999) i)::text
                FROM r, generate_series(1, 2) e, generate_series(1, 7) n)
             SELECT id FROM r",
        )
        .await;
    let (mut conn, mut place, mut pages, mut lines) =
        (db.pool.acquire().await.unwrap(), Place::default(), 0, Vec::new());
    loop {
        let (page, more) = logs::next(&mut *conn, run, &Which::default(), &mut place).await.unwrap();
        assert!(!page.is_empty());
        lines.extend(page.into_iter().map(|l| (l.epoch, l.line)));
        pages += 1;
        if !more {
            break;
        }
    }
    let all: Vec<(i32, i64)> = [1, 2].into_iter().flat_map(|e| (1_000..8_000).map(move |n| (e, n))).collect();
    assert!(lines == all && pages > 3, "{pages} pages, {} lines", lines.len());
}

#[tokio::test]
async fn an_export_tells_what_steps_have_written() {
    let (db, files) = (Db::new().await, Files::new([WRITES]));
    let mut worker = Spec::new(&db, &files).env("STEPD_SECRETS__API", SECRET).ready().await;
    let run = db.enqueue("writes", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(worker.drain(SOON).await, Some(0));
    db.exec("UPDATE stepd_engine.ended SET id = stepd_engine.first_id(now() - interval '9 days'), ended_at = now() - interval '9 days', started_at = now() - interval '9 days'; UPDATE stepd_engine.logs SET run = (SELECT id FROM stepd_engine.ended)").await;
    let file = files.path("archive.jsonl");
    stepd(&db, &["prune", "--older-than", "1d", "--archive", &file.display().to_string(), "--yes"]).await.is(0);
    let told: Value = serde_json::from_str(std::fs::read_to_string(&file).unwrap().trim()).unwrap();
    let texts: Vec<&str> = told["logs"].as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap()).collect();
    assert!(texts.contains(&"red key ***") && texts.contains(&"out 2"), "{texts:?}");
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.logs").await, 0);
}

#[tokio::test]
async fn a_server_of_tools_says_what_it_says_to_the_call_under_way() {
    let script = r#"
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  case "$line" in
    *'"method":"server/discover"'*) echo 'before any call' >&2; say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"name":"work"'*)
      case "$line" in *'modelcontextprotocol/logLevel":"info"'*) ;; *) exit 1 ;; esac
      echo 'on stderr' >&2
      printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","logger":"shop","data":"low on tea"}}\n'
      printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"n":1}}}\n'
      while [ ! -e @DIR@/go ]; do sleep 0.05; done
      say '{"structuredContent":{"result":1}}' ;;
  esac
done
"#;
    let (db, files) = (Db::new().await, Files::new(["name: call\nresume: never\nsteps: [{id: t, mcp: own.work}]\n"]));
    let path = files.path("server.sh");
    std::fs::write(&path, script.replace("@DIR@", &files.path("").display().to_string())).unwrap();
    std::fs::write(files.path("stepd.toml"), format!("[mcp.own]\ncommand = \"sh\"\nargs = [\"{}\"]\n", path.display()))
        .unwrap();
    let _worker =
        Spec::new(&db, &files).arg("--config").arg(&files.path("stepd.toml").display().to_string()).ready().await;
    let run = db.enqueue("call", "{}").await;
    for text in ["t#1 server on stderr", "t#1 server shop: low on tea", "t#1 server {\"n\":1}"] {
        keeps(&db, &run, text).await;
    }
    assert_eq!(db.state(&run).await, "running", "they are there while it works");
    assert_eq!(db.count("SELECT count(*) FROM stepd.logs WHERE level = 'warn' AND text LIKE '%tea'").await, 1);
    std::fs::write(files.path("go"), "").unwrap();
    db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn code_of_a_step_writes_into_its_log_and_code_between_steps_nowhere() {
    async fn talk(ctx: &Ctx<'_>, _: Value) -> Result<u32, Halt> {
        ctx.log("between");
        ctx.step("one", || async move {
            ctx.log(format!("one {}", 1));
            tokio::task::yield_now().await;
            ctx.log("one more");
            Ok(1)
        })
        .await?;
        let two = ctx.step_with("two", |step| async move {
            step.log_as(LogLevel::Error, "two");
            Ok(2)
        });
        let three = ctx.step("three", || async move {
            ctx.log("three");
            Ok(3)
        });
        let (two, three) = tokio::join!(two.into_future(), three.into_future());
        Ok(two? + three?)
    }
    use std::future::IntoFuture as _;
    let db = Db::new().await;
    let stepd = Stepd::builder().database(&db.url).queue("own").workflow("talk", talk).start().await.unwrap();
    let run = stepd.enqueue("talk", &json!({})).await.unwrap();
    assert_eq!(stepd.result::<u32>(run).await.unwrap(), 5);
    assert!(stepd.shutdown().await);
    let mut lines = kept(&db, &run.to_string()).await;
    lines.sort();
    assert_eq!(lines, ["one#1 code one 1", "one#1 code one more", "three#1 code three", "two#1 code two"]);
    assert_eq!(db.all::<String>("SELECT key FROM stepd.logs WHERE level = 'error'").await, ["two"]);
}

#[tokio::test]
async fn while_the_table_cannot_be_written_steps_go_on_and_what_waits_is_written_later() {
    let (db, files) = (Db::new().await, Files::new([WRITES]));
    let _worker = Spec::new(&db, &files).env("STEPD_SECRETS__API", SECRET).ready().await;
    let mut locker = db.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE stepd_engine.logs IN EXCLUSIVE MODE").execute(&mut *locker).await.unwrap();
    let run = db.enqueue("writes", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    holds_for("nothing is written", Duration::from_millis(500), async || kept(&db, &run).await.is_empty()).await;
    locker.rollback().await.unwrap();
    keeps(&db, &run, "out 2").await;
    assert_eq!(kept(&db, &run).await.len(), 6, "each line once");
}
