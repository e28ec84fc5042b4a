//! What the analytics say agrees with SQL over the same runs: in the API and in the page.

use serde_json::{Value, json};

use crate::http;
use crate::support::Db;

use super::ground::{FAILS, Ground};

/// Ended runs of two workflows over the last half hour, of all ends and many lengths; some failed at steps of a map, some have called models.
async fn seeded(db: &Db) {
    db.exec(
        "INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, created_by, output, error,
             last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
         SELECT (lpad(to_hex((extract(epoch FROM s.at) * 1000)::bigint), 12, '0') || '7' || substr(md5(s.i::text), 1, 3) || '8' || substr(md5(s.i::text), 4, 15))::uuid,
             s.state, 1, w.definition, 5, s.i % 3, s.i % 2, s.at, s.at + interval '100 ms', s.at + interval '100 ms' + (s.i * 37 % 101) * interval '59 ms', w.name, 'default', '{}', '{}', 'app',
             CASE WHEN s.state = 'completed' THEN '{}' END,
             CASE WHEN s.state = 'failed' THEN format('{\"class\":\"permanent\",\"code\":\"%s\",\"message\":\"no\"}', CASE WHEN s.i % 4 = 0 THEN 'timeout' ELSE 'http_503' END) END,
             3, 1, s.at + interval '110 ms', CASE WHEN s.i % 5 = 0 THEN format('docs[%s].text', s.i) ELSE 'charge' END, 'http', CASE WHEN s.state = 'completed' THEN '1' END
         FROM (SELECT i, date_trunc('milliseconds', now() - interval '30 min' + i * interval '5 s') AS at,
             CASE WHEN i % 7 = 0 THEN 'failed' WHEN i % 11 = 0 THEN 'cancelled' ELSE 'completed' END::stepd.run_state AS state FROM generate_series(1, 300) i) s
         JOIN stepd_engine.workflows w ON w.name = CASE WHEN s.i % 3 = 0 THEN 'fails' ELSE 'asks' END",
    )
    .await;
    db.exec(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, usage)
         SELECT e.id, 1, 1, e.started_at, e.ended_at, 1, true, 'completed', 'ask', 'llm', '1', format('{\"calls\":1,\"tokens_in\":%s,\"tokens_out\":7,\"cost\":0.0%s}', 100 + e.resumes, 1 + e.crashes)
         FROM stepd_engine.ended e WHERE e.workflow = 'asks'",
    )
    .await;
}

/// The same figures, asked of the views that people read.
const BY_SQL: &str = "SELECT jsonb_object_agg(coalesce(g.workflow, ''), to_jsonb(g) - 'workflow') FROM (
    SELECT r.workflow, count(*) AS runs, count(*) FILTER (WHERE r.state = 'completed') AS completed, count(*) FILTER (WHERE r.state = 'failed') AS failed,
        count(*) FILTER (WHERE r.state = 'cancelled') AS cancelled, sum(r.resumes) AS resumes, sum(r.crashes) AS crashes,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM r.duration)::float8) FILTER (WHERE r.state = 'completed') AS p50,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM r.duration)::float8) FILTER (WHERE r.state = 'completed') AS p95,
        sum(r.tokens_in) AS tokens_in, sum(r.tokens_out) AS tokens_out, sum(r.cost) AS cost
    FROM stepd.runs r WHERE r.ended_at IS NOT NULL GROUP BY GROUPING SETS ((r.workflow), ())) g";

const FAILURES_BY_SQL: &str = "SELECT jsonb_agg(to_jsonb(f) ORDER BY f.workflow, f.step, f.code) FROM (
    SELECT r.workflow, regexp_replace(r.step, '\\[[^]]*\\]', '[*]') AS step, r.error_code AS code, count(*) AS runs
    FROM stepd.runs r WHERE r.state = 'failed' GROUP BY 1, 2, 3) f";

const FIGURES: [&str; 11] =
    ["runs", "completed", "failed", "cancelled", "resumes", "crashes", "p50", "p95", "tokens_in", "tokens_out", "cost"];

/// Numbers that are the same but for the last digits.
fn near(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-6,
        _ => a == b,
    }
}

#[tokio::test]
async fn the_figures_of_an_hour_and_of_a_month_are_those_of_sql() {
    let g = http::Ground::new().await;
    seeded(&g.db).await;
    let by_sql: Value = g.db.one(BY_SQL).await;
    let told = g.get("/analytics?span=1h").await;
    let of = |told: &Value, workflow: &str| {
        let went = told["went"].as_array().unwrap();
        let mine = |w: &&Value| w["stretch"].is_null() && w["workflow"].as_str().unwrap_or("") == workflow;
        went.iter().find(mine).unwrap().clone()
    };
    for workflow in ["", "asks", "fails"] {
        let (told, by_sql) = (of(&told, workflow), &by_sql[workflow]);
        for figure in FIGURES {
            assert!(near(&told[figure], &by_sql[figure]), "{workflow} {figure}: {told} {by_sql}");
        }
    }
    assert!(by_sql["asks"]["cost"].as_f64().unwrap() > 1.0 && by_sql["fails"]["cost"].is_null());
    // The stretches add up to the whole.
    let stretches: i64 = told["went"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|w| w["workflow"].is_null() && !w["stretch"].is_null())
        .map(|w| w["runs"].as_i64().unwrap())
        .sum();
    assert_eq!(stretches, 300);
    let by_sql: Value = g.db.one(FAILURES_BY_SQL).await;
    let mut failures: Vec<Value> = told["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| json!({"workflow": f["workflow"], "step": f["step"], "code": f["code"], "runs": f["runs"]}))
        .collect();
    failures.sort_by_key(|f| ["workflow", "step", "code"].map(|key| f[key].as_str().unwrap().to_owned()));
    assert_eq!(Value::from(failures), by_sql);
    // By days, as stepd.stats() has it.
    g.db.exec("SELECT stepd_engine.fold(100000)").await;
    let month = g.get("/analytics?span=30d").await;
    let stats = "SELECT jsonb_object_agg(s.workflow, jsonb_build_object('runs', runs, 'completed', completed, 'failed', failed, 'cancelled', cancelled, 'resumes', resumes, 'crashes', crashes,
        'p50', extract(epoch FROM duration_p50)::float8, 'p95', extract(epoch FROM duration_p95)::float8, 'tokens_in', tokens_in, 'tokens_out', tokens_out, 'cost', cost)) FROM stepd.stats() s";
    let stats: Value = g.db.one(stats).await;
    for workflow in ["asks", "fails"] {
        let told = of(&month, workflow);
        for figure in FIGURES {
            assert!(near(&told[figure], &stats[workflow][figure]), "{workflow} {figure}: {told} {stats}");
        }
    }
}

#[tokio::test]
async fn the_page_shows_the_figures_of_sql() {
    let Some(g) = Ground::new(&[FAILS, http::ASKS]).await else { return };
    seeded(&g.db).await;
    let by_sql: Value = g.db.one(BY_SQL).await;
    g.page.open("/analytics?span=1h").await;
    let all = &by_sql[""];
    let number = |key: &str| all[key].as_f64().unwrap();
    let success = format!("{:.1} %", 100.0 * number("completed") / (number("completed") + number("failed")));
    g.page.sees(&success).await;
    g.page.sees(&format!("{} failed, {} cancelled", number("failed"), number("cancelled"))).await;
    g.page.sees(&format!("{:.2} s", number("p50"))).await;
    g.page.sees(&format!("{:.2} s", number("p95"))).await;
    g.page.sees(&format!("{:.2}", number("cost"))).await;
    g.page.sees("docs[*].text").await;
    // The twin of the chart of costs says the same.
    g.page.eval("[...document.querySelectorAll('.panel')].find(p => p.innerText.includes('models cost')).querySelector('.link-button').click()").await;
    let sum = "[...document.querySelectorAll('.panel')].find(p => p.innerText.includes('models cost')).querySelectorAll('tbody tr').length > 0";
    g.page.until(sum).await;
    g.is_clean();
}
