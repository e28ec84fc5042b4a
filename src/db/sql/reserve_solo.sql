-- One busy worker puts its id on a run that must be claimed alone, and empties itself; the others go on.
-- Caller: services::claimer. A reservation of a worker that is gone does not count.
UPDATE stepd.jobs j SET worker = $1
WHERE j.ctid = ANY (ARRAY(SELECT r.ctid FROM stepd.jobs r
    WHERE r.lane = 1 AND r.state = 'queued' AND r.streak >= $3
      AND CASE WHEN $2::text[] IS NULL
            THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = r.queue AND (q.exclusive OR NOT q.open))
            ELSE r.queue = ANY ($2::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = r.queue AND NOT q.open) END
      AND (r.worker IS NULL OR r.worker = $1 OR NOT EXISTS (SELECT FROM stepd_engine.workers w WHERE w.id = r.worker))
    ORDER BY r.priority, r.ready_at, r.id LIMIT 1 FOR UPDATE SKIP LOCKED))
