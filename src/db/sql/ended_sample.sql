-- How the newest $2 ended runs went that were enqueued since $1: by workflow and stretch of $3 seconds, by workflow, by stretch, and all
-- together. Caller: the HTTP API. Index: the primary key, walked from its end: it costs no more than the sample, whatever the span.
WITH sample AS MATERIALIZED (
    SELECT e.id, e.workflow, e.state, stepd_engine.uuid_time(e.id) AS enqueued, e.started_at, e.ended_at, e.resumes, e.crashes
    FROM stepd_engine.ended e WHERE e.id >= stepd_engine.first_id($1) ORDER BY e.id DESC LIMIT $2
), used AS (
    SELECT c.run, sum(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint) AS tokens_in,
        sum(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint) AS tokens_out, sum(stepd_engine.failure_field(c.usage, 'cost')::numeric) AS cost
    FROM stepd_engine.checkpoints c WHERE c.usage IS NOT NULL AND c.run IN (SELECT s.id FROM sample s) GROUP BY c.run
), placed AS (
    SELECT s.*, u.tokens_in, u.tokens_out, u.cost, to_timestamp(floor(extract(epoch FROM s.enqueued)::float8 / $3) * $3) AS stretch,
        extract(epoch FROM s.ended_at - s.started_at)::float8 AS took, extract(epoch FROM s.started_at - s.enqueued)::float8 AS stood
    FROM sample s LEFT JOIN used u ON u.run = s.id
)
SELECT p.workflow AS "workflow?", p.stretch AS "stretch?", count(*) AS "runs!", count(*) FILTER (WHERE p.state = 'completed') AS "completed!",
    count(*) FILTER (WHERE p.state = 'failed') AS "failed!", count(*) FILTER (WHERE p.state = 'cancelled') AS "cancelled!",
    coalesce(sum(p.resumes), 0) AS "resumes!", coalesce(sum(p.crashes), 0) AS "crashes!",
    percentile_disc(0.5) WITHIN GROUP (ORDER BY p.took) FILTER (WHERE p.state = 'completed') AS "p50?",
    percentile_disc(0.95) WITHIN GROUP (ORDER BY p.took) FILTER (WHERE p.state = 'completed') AS "p95?",
    percentile_disc(0.95) WITHIN GROUP (ORDER BY greatest(p.stood, 0)) AS "wait_p95?",
    sum(p.tokens_in)::bigint AS "tokens_in?", sum(p.tokens_out)::bigint AS "tokens_out?", sum(p.cost)::float8 AS "cost?",
    min(p.enqueued) AS "oldest!"
FROM placed p GROUP BY GROUPING SETS ((p.workflow, p.stretch), (p.workflow), (p.stretch), ()) HAVING count(*) > 0
ORDER BY p.workflow, p.stretch
