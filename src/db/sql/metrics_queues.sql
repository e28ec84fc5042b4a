-- The queues for the metrics: the $1 with the most runs each by itself, the others together as `other`. Caller: the HTTP server's metrics.
-- Reads every unfinished run once, like stepd.queues: whoever calls it leaves time between.
WITH q AS (
    SELECT q.*, row_number() OVER (ORDER BY q.queued + q.held + q.running + q.scheduled + q.waiting + q.resuming + q.runs_paused DESC, q.name) AS place
    FROM stepd.queues q
)
SELECT CASE WHEN q.place <= $1 THEN q.name ELSE 'other' END AS "name!", sum(q.queued)::bigint AS "queued!", sum(q.held)::bigint AS "held!",
    sum(q.running)::bigint AS "running!", sum(q.scheduled)::bigint AS "scheduled!", sum(q.waiting)::bigint AS "waiting!",
    sum(q.resuming)::bigint AS "resuming!", sum(q.runs_paused)::bigint AS "paused!", bool_or(q.paused) AS "is_paused!",
    coalesce(max(extract(epoch FROM q.oldest_ready_age)), 0)::float8 AS "oldest_ready!"
FROM q GROUP BY 1 ORDER BY 1
