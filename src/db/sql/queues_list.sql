-- The queues with what stands in them: all, or one by name. Caller: the command line's queue.
SELECT q.name AS "name!", q.paused AS "paused!", q.paused_by, q.paused_at, q.max_running, q.exclusive AS "exclusive!",
    q.queued AS "queued!", q.held AS "held!", q.running AS "running!", q.scheduled AS "scheduled!", q.waiting AS "waiting!",
    q.resuming AS "resuming!", q.runs_paused AS "runs_paused!", q.oldest_ready_at, clock_timestamp() AS "now!"
FROM stepd.queues q WHERE $1::text IS NULL OR q.name = $1 ORDER BY q.name
