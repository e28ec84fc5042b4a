-- The runs that were enqueued in the last day and stand failed, by queue; of very many the newest $1. Caller: the HTTP server's metrics.
-- Index: ended_not_completed, from its end.
SELECT f.queue AS "queue!", count(*) AS "runs!"
FROM (SELECT e.queue FROM stepd_engine.ended e
    WHERE e.state = 'failed' AND e.id >= stepd_engine.first_id(statement_timestamp() - interval '1 day') ORDER BY e.id DESC LIMIT $1) f
GROUP BY f.queue ORDER BY count(*) DESC, f.queue
