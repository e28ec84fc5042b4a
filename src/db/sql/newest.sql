-- The (queue, priority) pairs of the newest jobs, each with the place of its first: where a hint's job is, when it is in no pair that is known.
-- A look finds it, too, but walks every pair for that (measured with 10,000 queues: 29 ms).
-- Caller: services::claimer, hinted, after a claim in vain. Index: jobs_pkey, whose ids begin with the time of the INSERT.
-- $1 the time from which on; $2 the queues served (NULL: all that are not exclusive).
SELECT DISTINCT ON (n.queue, n.priority) n.queue AS "queue!", n.priority AS "priority!", n.ready_at, n.id
FROM (SELECT j.queue, j.priority, j.ready_at, j.id FROM stepd.jobs j
    WHERE j.id >= rpad(lpad(to_hex((extract(epoch FROM $1::timestamptz) * 1000)::bigint), 12, '0'), 32, '0')::uuid
        AND j.lane = 0 AND j.state = 'queued'
    ORDER BY j.id LIMIT 100) n
WHERE CASE WHEN $2::text[] IS NULL
    THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = n.queue AND (q.exclusive OR NOT q.open))
    ELSE n.queue = ANY ($2::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = n.queue AND NOT q.open) END
ORDER BY n.queue, n.priority, n.ready_at, n.id
