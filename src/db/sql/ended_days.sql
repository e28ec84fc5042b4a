-- How all runs went that ended since the day of $1: by workflow and day, by workflow, by day, and all together. Caller: the HTTP API.
-- Read from the daily figures, which cost the same whatever the history holds, and know of runs that have been removed.
WITH durations AS (
    SELECT d.workflow, d.day, d.bucket, sum(d.runs) AS runs FROM stepd.daily_durations d
    WHERE d.state = 'completed' AND d.day >= ($1::timestamptz AT TIME ZONE 'UTC')::date
    GROUP BY GROUPING SETS ((d.workflow, d.day, d.bucket), (d.workflow, d.bucket), (d.day, d.bucket), (d.bucket))
), upto AS (
    SELECT d.workflow, d.day, d.bucket, sum(d.runs) OVER (PARTITION BY d.workflow, d.day ORDER BY d.bucket) AS upto,
        sum(d.runs) OVER (PARTITION BY d.workflow, d.day) AS total FROM durations d
), spread AS (
    SELECT u.workflow, u.day, min(u.bucket) FILTER (WHERE u.upto >= u.total * 0.5) AS p50, min(u.bucket) FILTER (WHERE u.upto >= u.total * 0.95) AS p95
    FROM upto u GROUP BY u.workflow, u.day
), went AS (
    SELECT d.workflow, d.day, sum(d.runs) AS runs, sum(d.runs) FILTER (WHERE d.state = 'completed') AS completed,
        sum(d.runs) FILTER (WHERE d.state = 'failed') AS failed, sum(d.runs) FILTER (WHERE d.state = 'cancelled') AS cancelled,
        sum(d.resumes) AS resumes, sum(d.crashes) AS crashes, min(d.day) AS oldest, sum(d.tokens_in) AS tokens_in, sum(d.tokens_out) AS tokens_out, sum(d.cost) AS cost
    FROM stepd.daily d WHERE d.day >= ($1::timestamptz AT TIME ZONE 'UTC')::date
    GROUP BY GROUPING SETS ((d.workflow, d.day), (d.workflow), (d.day), ()) HAVING count(*) > 0
)
SELECT w.workflow AS "workflow?", w.day::timestamp AT TIME ZONE 'UTC' AS "stretch?", w.runs::bigint AS "runs!", coalesce(w.completed, 0)::bigint AS "completed!",
    coalesce(w.failed, 0)::bigint AS "failed!", coalesce(w.cancelled, 0)::bigint AS "cancelled!", w.resumes::bigint AS "resumes!", w.crashes::bigint AS "crashes!",
    extract(epoch FROM stepd_engine.bucket_middle(s.p50))::float8 AS "p50?", extract(epoch FROM stepd_engine.bucket_middle(s.p95))::float8 AS "p95?",
    NULL::float8 AS "wait_p95?", w.tokens_in::bigint AS "tokens_in?", w.tokens_out::bigint AS "tokens_out?", w.cost::float8 AS "cost?", w.oldest::timestamp AT TIME ZONE 'UTC' AS "oldest!"
FROM went w LEFT JOIN spread s ON s.workflow IS NOT DISTINCT FROM w.workflow AND s.day IS NOT DISTINCT FROM w.day
ORDER BY w.workflow, w.day
