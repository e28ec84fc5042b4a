//! What Postgres itself allows: two UPDATEs a job, on one table with a state column and a partial index on the live rows.

use anyhow::Result;

use super::Bench;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS floor (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), state stepd.run_state NOT NULL DEFAULT 'queued', priority smallint NOT NULL DEFAULT 5,
    run_at timestamptz NOT NULL DEFAULT clock_timestamp(), attempts smallint NOT NULL DEFAULT 0, queue text NOT NULL DEFAULT 'default',
    workflow text NOT NULL DEFAULT 'noop', input jsonb NOT NULL DEFAULT '{}', output text, started_at timestamptz, ended_at timestamptz, worker uuid);
CREATE INDEX IF NOT EXISTS floor_ready ON floor (priority, run_at, id) WHERE state IN ('queued', 'running');
TRUNCATE floor;
INSERT INTO floor (workflow) SELECT 'noop' FROM generate_series(1, 100000);
ANALYZE floor; CHECKPOINT;";

const SCRIPT: &str = r"WITH c AS MATERIALIZED (SELECT id FROM floor WHERE state = 'queued' ORDER BY priority, run_at, id LIMIT 500 FOR UPDATE SKIP LOCKED), u AS (UPDATE floor f SET state = 'running', started_at = clock_timestamp(), attempts = f.attempts + 1 FROM c WHERE f.id = c.id RETURNING f.id) SELECT coalesce(array_agg(id), '{}') AS ids FROM u \gset
UPDATE floor SET state = 'completed', output = '1', ended_at = clock_timestamp() WHERE id = ANY (:ids::uuid[]);
";

/// Jobs a second at n = 500 with two clients, and the server's CPU a job in µs.
pub async fn jobs_per_second(bench: &Bench) -> Result<(f64, f64)> {
    let db = bench.server.database().await?;
    db.execute(TABLE).await?;
    let before = bench.server.cpu()?;
    let rate = bench.server.pgbench(&db, SCRIPT, 2, 100)?.0 * 500.0;
    Ok((rate, (bench.server.cpu()? - before) * 10.0))
}
