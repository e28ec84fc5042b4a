//! `docs/sql.md`, run as it stands there: each block under the role that its heading names.

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec, wait_until};

const DOCUMENT: &str = include_str!("../../docs/sql.md");

const ORDER: &str = r#"
name: order
resume: never
steps:
  - {id: check, set: 1}
  - id: charge
    run: test "$CUSTOMER" != 7 || exit 3
    env: {CUSTOMER: "${{ input.customer | default(1) }}"}
    retry: {max_attempts: 1}
  - {id: sure, approve: "Ship it?"}
"#;

/// (role, what the first comment says, statements)
fn blocks() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for part in DOCUMENT.split("```sql ").skip(1) {
        let (head, rest) = part.split_once('\n').unwrap();
        let sql = rest.split_once("```").unwrap().0.to_owned();
        let name = sql.strip_prefix("-- ").map(|s| s.lines().next().unwrap().to_owned()).unwrap_or_default();
        found.push((head.trim().to_owned(), name, sql));
    }
    found
}

#[tokio::test]
async fn every_query_of_the_handbook_runs_as_its_role_and_finds_what_it_says() {
    let (db, files) = (Db::new().await, Files::new([ORDER]));
    stepd(&db, &["migrate", "--roles"]).await.is(0);
    let _worker = Spec::new(&db, &files).ready().await;
    let blocks = blocks();
    assert!(blocks.len() >= 15, "{}", blocks.len());
    for (n, (role, name, sql)) in blocks.iter().enumerate() {
        let mut tx = db.pool.begin().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET LOCAL ROLE {role}"))).execute(&mut *tx).await.unwrap();
        let rows = match sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).fetch_all(&mut *tx).await {
            Ok(rows) => rows.len(),
            Err(error) => panic!("{error}\n{sql}"),
        };
        sqlx::raw_sql("RESET ROLE").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let wanted = match name.as_str() {
            "" => None,
            "Recent runs" => Some(23..=23),
            "Failed runs with their failed step" => Some(1..=1),
            "Average step duration by name" => Some(2..=2),
            // None has completed before somebody approves.
            "p95 by workflow, of the runs that are there" => Some(0..=0),
            "Who is asked for what" => Some(21..=23),
            "What happened to the newest run, and who did it"
            | "Every try of its steps"
            | "What its steps have written (docs/logs.md)" => None,
            "The last thirty days, by workflow"
            | "Day by day"
            | "What fails most"
            | "Queues, the longest wait first" => Some(1..=1),
            "Runs of a session" => Some(1..=1),
            "What models cost, by day and concurrency key" | "What models cost, by a label" => Some(0..=0),
            "What a run waits for, in a sentence" | "Runs with a label" => Some(20..=20),
            other => panic!("what does {other:?} find?"),
        };
        assert!(wanted.as_ref().is_none_or(|w| w.contains(&rows)), "{name}: {rows} rows, not {wanted:?}");
        if role == "stepd_enqueue" && blocks[n + 1].0 != "stepd_enqueue" {
            wait_until("all ask, or have failed, or wait for their time, and that is counted", SOON, async || {
                db.count("SELECT count(*) FROM stepd.waiting WHERE waits_for = 'approval'").await == 22
                    && db.count("SELECT coalesce(sum(runs), 0)::bigint FROM stepd.daily").await == 1
                    && db.count("SELECT count(*) FROM stepd.jobs WHERE state = 'running'").await == 0
            })
            .await;
        }
    }
    wait_until("what was approved has ended", SOON, async || {
        db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await >= 20
    })
    .await;
}
