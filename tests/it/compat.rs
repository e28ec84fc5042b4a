//! The names of two older systems over stepd's rows: the queries that their documents print run unchanged.

use std::process::Command;

use crate::cli::stepd;
use crate::sql::psql;
use crate::support::{Db, Files, SOON, Spec, wait_until};

const WORKFLOWS: [&str; 3] = [
    "name: agents\nsteps:\n  - {id: summarize, run: 'echo \"{}\"'}\n  - {id: extract_entities, run: 'echo \"[1]\"'}\n",
    "name: fails\nresume: never\nsteps:\n  - {id: first, set: 1}\n  - {id: second, run: exit 3, retry: {max_attempts: 2, initial: 10ms}}\n",
    "name: patient\nsteps:\n  - {id: go, wait: go}\n",
];

/// Statements under a search_path, as `PGOPTIONS='-c search_path=…' psql` runs them; each row as text.
async fn ask(db: &Db, schema: &str, sql: &str) -> Vec<String> {
    try_ask(db, schema, sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"))
}

async fn try_ask(db: &Db, schema: &str, sql: &str) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET LOCAL search_path = {schema}"))).execute(&mut *tx).await.unwrap();
    // As it is printed: what comes back is read as text, whatever its types.
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let text = |row: &sqlx::postgres::PgRow| {
        use sqlx::{Row as _, ValueRef as _};
        let cells = (0..row.len()).map(|n| {
            let cell = row.try_get_raw(n).unwrap();
            if cell.is_null() { String::new() } else { cell.as_str().unwrap_or("?").to_owned() }
        });
        cells.collect::<Vec<_>>().join("|")
    };
    Ok(rows.iter().map(text).collect())
}

#[tokio::test]
async fn the_queries_of_the_agent_runtimes_document_run_as_printed() {
    let (db, files) = (Db::new().await, Files::new(WORKFLOWS));
    stepd(&db, &["migrate", "--compat", "tables"]).await.is(0);
    let spec = Spec::new(&db, &files);
    let mut killed = spec.ready().await;
    let run = db.enqueue("agents", "{\"text\": \"x\"}").await;
    db.reaches(&run, "completed", SOON).await;
    killed.kill9();
    let _heir = spec.ready().await;
    let failed = db.enqueue("fails", "{}").await;
    db.reaches(&failed, "failed", SOON).await;

    let rt = "stepd_runtime";
    let rows = ask(&db, rt, "SELECT id, status, workflow_id, created_at, completed_at FROM executions;").await;
    assert!(rows.iter().any(|r| r.starts_with(&format!("{run}|SUCCESS|agents|"))), "{rows:?}");
    assert!(rows.iter().any(|r| r.starts_with(&format!("{failed}|FAILED|fails|"))), "{rows:?}");
    let rows =
        ask(&db, rt, "SELECT step_name, status, retry_count, started_at, completed_at FROM execution_steps;").await;
    assert!(
        rows.iter().any(|r| r.starts_with("summarize|SUCCESS|0|"))
            && rows.iter().any(|r| r.starts_with("second|FAILED|1|")),
        "{rows:?}"
    );
    let order =
        format!("SELECT step_order, step_name FROM execution_steps WHERE execution_id = '{run}' ORDER BY step_order");
    assert_eq!(ask(&db, rt, &order).await, ["1|summarize", "2|extract_entities"]);
    let events = format!(
        "SELECT event_type FROM (SELECT event_type, timestamp FROM execution_events WHERE execution_id = '{run}' ORDER BY timestamp) x"
    );
    let wanted = [
        "EXECUTION_STARTED",
        "STEP_STARTED",
        "AGENT_INVOKED",
        "AGENT_RESPONSE",
        "STEP_COMPLETED",
        "STEP_STARTED",
        "AGENT_INVOKED",
        "AGENT_RESPONSE",
        "STEP_COMPLETED",
        "EXECUTION_COMPLETED",
    ];
    assert_eq!(ask(&db, rt, &events).await, wanted);
    let strictly = "SELECT count(*) FROM (SELECT timestamp > lag(timestamp) OVER w AS later, sequence = lag(sequence) OVER w + 1 AS next FROM execution_events WINDOW w AS (PARTITION BY execution_id ORDER BY sequence)) x WHERE NOT later OR NOT next";
    assert_eq!(ask(&db, rt, strictly).await, ["0"]);
    assert_eq!(
        ask(
            &db,
            rt,
            "SELECT event_type, timestamp, event_payload::text \nFROM execution_events \nORDER BY timestamp DESC;"
        )
        .await
        .len(),
        10 + 7
    );
    let state = format!(
        "SELECT current_step, state_snapshot -> 'extract_entities' FROM execution_state WHERE execution_id = '{run}'"
    );
    assert_eq!(ask(&db, rt, &state).await[0].split('|').next(), Some("2"));
    assert_eq!(ask(&db, rt, "SELECT state_snapshot FROM execution_state;").await.len(), 2);
    assert_eq!(ask(&db, rt, "SELECT COUNT(*) FROM execution_locks;").await, ["0"]);
    let duration = "SELECT \n  workflow_id,\n  status,\n  EXTRACT(EPOCH FROM (completed_at - started_at)) as duration_seconds\nFROM executions \nWHERE status = 'SUCCESS';";
    assert!(ask(&db, rt, duration).await[0].starts_with("agents|SUCCESS|0."));
    let runs = format!(
        "SELECT thread_id, status, error_message, latest_checkpoint FROM workflow_runs WHERE thread_id = '{failed}'"
    );
    assert!(ask(&db, rt, &runs).await[0].starts_with(&format!("{failed}|failed|")));
    assert_eq!(
        ask(&db, rt, &format!("SELECT checkpoint_id, step FROM latest_checkpoints WHERE thread_id = '{run}'")).await,
        ["extract_entities|2"]
    );
    for refused in [
        "UPDATE execution_events SET event_type = 'x'",
        "DELETE FROM execution_events",
        "DELETE FROM executions",
        "INSERT INTO execution_locks (execution_id) VALUES (gen_random_uuid())",
    ] {
        assert!(try_ask(&db, rt, refused).await.is_err(), "{refused}");
    }
    described(&db);
}

/// `\d` and `\dt`, as the document does.
fn described(db: &Db) {
    let Some(psql) = psql() else {
        eprintln!("SKIPPED: \\d needs psql (Debian: apt-get install postgresql-client)");
        return;
    };
    let five = ["executions", "execution_steps", "execution_state", "execution_events", "execution_locks"];
    let run = |schema: &str, what: &str| {
        let done = Command::new(&psql)
            .args(["-X", "-c", what, &db.url])
            .env("PGOPTIONS", format!("-c search_path={schema}"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    for table in five {
        for schema in ["stepd_runtime", "stepd_runtime_tables"] {
            let told = run(schema, &format!("\\d {table}"));
            assert!(told.contains(&format!("\"{schema}.{table}\"")), "{told}");
        }
        assert!(run("stepd_runtime_tables", "\\dt").contains(&format!(" {table} ")));
    }
}

const AFU9: [(&str, &str); 4] = [
    (
        "recent",
        "SELECT \n  id,\n  status,\n  started_at,\n  completed_at,\n  EXTRACT(EPOCH FROM (completed_at - started_at)) * 1000 as duration_ms\nFROM workflow_executions\nORDER BY started_at DESC\nLIMIT 50;",
    ),
    (
        "steps",
        "SELECT \n  step_name,\n  step_index,\n  status,\n  duration_ms,\n  retry_count,\n  error\nFROM workflow_steps\nWHERE execution_id = '@RUN@'\nORDER BY step_index ASC;",
    ),
    (
        "failed",
        "SELECT \n  we.id,\n  we.started_at,\n  we.error,\n  COUNT(ws.id) as total_steps,\n  COUNT(ws.id) FILTER (WHERE ws.status = 'failed') as failed_steps\nFROM workflow_executions we\nLEFT JOIN workflow_steps ws ON ws.execution_id = we.id\nWHERE we.status = 'failed'\nGROUP BY we.id\nORDER BY we.started_at DESC;",
    ),
    (
        "average",
        "SELECT \n  step_name,\n  COUNT(*) as executions,\n  AVG(duration_ms) as avg_duration_ms,\n  MIN(duration_ms) as min_duration_ms,\n  MAX(duration_ms) as max_duration_ms\nFROM workflow_steps\nWHERE status = 'completed'\nGROUP BY step_name\nORDER BY avg_duration_ms DESC;",
    ),
];
const INDEXES: &str = "CREATE INDEX IF NOT EXISTS idx_executions_status ON workflow_executions(status);\nCREATE INDEX IF NOT EXISTS idx_executions_started_at ON workflow_executions(started_at DESC);\nCREATE INDEX IF NOT EXISTS idx_steps_execution_id ON workflow_steps(execution_id);";
const DELETE: &str =
    "DELETE FROM workflow_executions\nWHERE status = 'completed'\n  AND completed_at < NOW() - INTERVAL '90 days';";

/// The tables show what the views show.
async fn caught_up(db: &Db) {
    let differs = [
        "runtime.executions",
        "runtime.execution_steps",
        "runtime.execution_state",
        "runtime.execution_events",
        "runtime.execution_locks",
        "afu9.workflow_executions",
        "afu9.workflow_steps",
    ]
    .map(|t| {
        let (schema, table) = t.split_once('.').unwrap();
        let (v, t) = (
            format!("SELECT v::text FROM stepd_{schema}.{table} v"),
            format!("SELECT t::text FROM stepd_{schema}_tables.{table} t"),
        );
        format!("(({v} EXCEPT ALL {t}) UNION ALL ({t} EXCEPT ALL {v}))")
    })
    .join(" UNION ALL ");
    wait_until("the tables show what the views show", SOON, async || {
        db.count("SELECT count(*) FROM stepd_tables.changed").await == 0
            && db.count(format!("SELECT count(*) FROM ({differs}) x")).await == 0
    })
    .await;
}

#[tokio::test]
async fn the_queries_of_the_afu9_document_run_as_printed_and_its_delete_is_the_retention() {
    let (db, files) = (Db::new().await, Files::new(WORKFLOWS));
    // Some were there before, some come after.
    let spec = Spec::new(&db, &files);
    let mut killed = spec.ready().await;
    let run = db.enqueue("fails", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    stepd(&db, &["migrate", "--compat", "tables"]).await.is(0);
    stepd(&db, &["migrate", "--compat", "tables"]).await.is(0);
    db.exec("INSERT INTO stepd.jobs (workflow, labels) SELECT CASE n % 4 WHEN 0 THEN 'fails' ELSE 'agents' END, '{\"triggered_by\": \"ann\", \"github_run_id\": \"7\"}' FROM generate_series(1, 40) n").await;
    let patient = db.enqueue("patient", "{}").await;
    wait_until("some have ended", SOON, async || db.count("SELECT count(*) FROM stepd_engine.ended").await > 10).await;
    killed.kill9();
    let _heir = spec.ready().await;
    wait_until("all have ended but one", SOON, async || db.count("SELECT count(*) FROM stepd.jobs").await == 1).await;
    db.exec(format!("SELECT stepd.pause('{patient}', 'by hand')")).await;
    // A pass that is cut off has done nothing.
    let mut cut = db.pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT stepd_engine.catch_up(1000)").execute(&mut *cut).await.unwrap();
    cut.rollback().await.unwrap();
    caught_up(&db).await;

    for schema in ["stepd_afu9", "stepd_afu9_tables"] {
        for (name, sql) in AFU9 {
            if name == "failed" && schema == "stepd_afu9" {
                // GROUP BY a primary key: what no view has. The tables have one.
                assert!(try_ask(&db, schema, sql).await.is_err());
                continue;
            }
            let rows = ask(&db, schema, &sql.replace("@RUN@", &run)).await;
            match name {
                "recent" => assert_eq!(rows.len(), 42),
                "steps" => assert!(
                    rows[0].starts_with("first|0|completed|")
                        && rows[1].starts_with("second|1|failed|")
                        && rows[1].contains("|1|"),
                    "{rows:?}"
                ),
                "failed" => assert!(rows.len() == 11 && rows.iter().all(|r| r.ends_with("|2|1")), "{rows:?}"),
                _ => assert!(
                    rows.iter().any(|r| r.starts_with("first|11|"))
                        && rows.iter().any(|r| r.starts_with("summarize|30|")),
                    "{rows:?}"
                ),
            }
        }
        let paused = "SELECT status, pause_metadata ->> 'reason', pause_metadata ->> 'pausedBy' FROM workflow_executions WHERE status = 'paused'";
        assert_eq!(ask(&db, schema, paused).await, ["paused|by hand|postgres"]);
        let who = "SELECT DISTINCT triggered_by, github_run_id FROM workflow_executions WHERE workflow_id = 'agents'";
        assert_eq!(ask(&db, schema, who).await, ["ann|7"]);
        assert!(
            try_ask(&db, schema, &format!("DELETE FROM workflow_executions WHERE id = '{patient}'"))
                .await
                .unwrap_err()
                .to_string()
                .contains("SD012")
        );
    }
    ask(&db, "stepd_afu9_tables", INDEXES).await;
    assert_eq!(
        ask(&db, "stepd_afu9_tables", "SELECT tablename FROM pg_tables WHERE tablename = 'workflow_executions';").await,
        ["workflow_executions"]
    );

    let counted: i64 = db.count("SELECT sum(n)::bigint FROM (SELECT sum(runs) AS n FROM stepd_engine.daily UNION ALL SELECT sum(runs) FROM stepd_engine.tallies) x").await;
    for (schema, kept) in [("stepd_afu9", 29), ("stepd_afu9_tables", 28)] {
        db.exec("UPDATE stepd_engine.ended SET ended_at = ended_at - interval '91 days' WHERE id = (SELECT id FROM stepd_engine.ended WHERE state = 'completed' AND ended_at > now() - interval '1 day' LIMIT 1)").await;
        // By hand, for stepd changes no ended row.
        db.exec("INSERT INTO stepd_tables.changed SELECT array_agg(id) FROM stepd_engine.ended").await;
        caught_up(&db).await;
        ask(&db, schema, DELETE).await;
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, kept);
        caught_up(&db).await;
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd_engine.checkpoints c WHERE NOT EXISTS (SELECT FROM stepd.runs r WHERE r.id = c.run)").await, 0);
    let now: i64 = db.count("SELECT sum(n)::bigint FROM (SELECT sum(runs) AS n FROM stepd_engine.daily UNION ALL SELECT sum(runs) FROM stepd_engine.tallies) x").await;
    assert_eq!(now, counted, "the figures stay");
}

#[tokio::test]
async fn the_older_names_go_without_a_trace_and_leave_what_is_not_theirs() {
    let db = Db::new().await;
    stepd(&db, &["migrate", "--compat", "tables", "--roles"]).await.is(0);
    let commented = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE n.nspname ~ '^stepd_(runtime|afu9|tables)' AND c.relkind IN ('r', 'v') AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)";
    assert_eq!(db.count(commented).await, 0, "each table, view and column says what it is");
    let may = "SELECT has_table_privilege('stepd_read', 'stepd_afu9.workflow_steps', 'SELECT') AND NOT has_table_privilege('stepd_read', 'stepd_afu9.workflow_executions', 'DELETE')
        AND has_table_privilege('stepd_daemon', 'stepd_afu9_tables.workflow_executions', 'DELETE') AND NOT has_schema_privilege('stepd_daemon', 'stepd_tables', 'USAGE')
        AND NOT has_schema_privilege('stepd_enqueue', 'stepd_runtime', 'USAGE')";
    assert!(db.one::<bool>(may).await);
    db.exec("CREATE VIEW public.mine AS SELECT id FROM stepd_afu9.workflow_executions").await;
    stepd(&db, &["migrate", "--compat", "none"]).await.is(1).says("depend");
    assert_eq!(db.count("SELECT count(*) FROM public.mine").await, 0, "all is as it was");
    db.exec("DROP VIEW public.mine").await;
    stepd(&db, &["migrate", "--compat", "none"]).await.is(0);
    let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^stepd_(runtime|afu9|tables)') + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'noted%')";
    assert_eq!(db.count(left).await, 0);
    stepd(&db, &["migrate", "--compat", "views"]).await.is(0);
    stepd(&db, &["migrate", "--compat", "none"]).await.is(0);
}
