-- The workflows, with what is in flight and how the runs went that were enqueued in the last day: all, or one by name.
-- Caller: the command line's workflow. Index: the primary keys, for ids grow with time.
-- Of the live runs one pass tells both: how many there are, and how many are of the last day.
SELECT w.name AS "name!", w.active AS "active!", w.queue AS "queue!", w.priority AS "priority!", w.source, w.loaded_at AS "loaded_at!",
    w.retired_at, w.definition AS "definition!", w.hash AS "hash!", coalesce(l.n, 0) AS "in_flight!",
    coalesce(l.fresh, 0) + coalesce(d.runs, 0) AS "runs!", coalesce(d.failed, 0) AS "failed!", d.p50, d.p95, clock_timestamp() AS "now!"
FROM stepd.workflows w
LEFT JOIN (SELECT j.workflow, count(*) AS n, count(*) FILTER (WHERE j.id >= (SELECT (lpad(to_hex((extract(epoch FROM statement_timestamp() - interval '1 day') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid)) AS fresh
    FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') AND ($1::text IS NULL OR j.workflow = $1) GROUP BY j.workflow) l ON l.workflow = w.name
LEFT JOIN (SELECT e.workflow, count(*) AS runs, count(*) FILTER (WHERE e.state = 'failed') AS failed,
        extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY e.ended_at - e.started_at) FILTER (WHERE e.state = 'completed'))::float8 AS p50,
        extract(epoch FROM percentile_cont(0.95) WITHIN GROUP (ORDER BY e.ended_at - e.started_at) FILTER (WHERE e.state = 'completed'))::float8 AS p95
    FROM stepd.runs e
    WHERE e.state IN ('completed', 'failed', 'cancelled') AND e.id >= (SELECT (lpad(to_hex((extract(epoch FROM statement_timestamp() - interval '1 day') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid) AND ($1::text IS NULL OR e.workflow = $1)
    GROUP BY e.workflow) d ON d.workflow = w.name
WHERE $1::text IS NULL OR w.name = $1 ORDER BY w.name
