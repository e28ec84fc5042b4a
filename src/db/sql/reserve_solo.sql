-- One busy worker puts its id on a run that must be claimed alone, and empties itself; the others go on.
-- Caller: services::claimer. A reservation of a worker that is gone does not count. Index: jobs_returned, as in claim.sql.
-- None where half of the workers run one alone already, or empty themselves for it (claim_solo.sql).
WITH RECURSIVE place AS (
    (SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j WHERE j.lane = 1
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1)
    UNION ALL
    SELECT n.queue, n.alone, n.priority, n.ready_at FROM place p, LATERAL (
        SELECT j.queue, (j.streak >= 4) AS alone, j.priority, j.ready_at FROM stepd.jobs j
        WHERE j.lane = 1 AND (j.queue, (j.streak >= 4), j.priority) > (p.queue, p.alone, p.priority)
        ORDER BY j.queue, (j.streak >= 4), j.priority, j.ready_at LIMIT 1) n
)
UPDATE stepd.jobs j SET worker = $1
WHERE j.ctid = ANY (ARRAY(SELECT x.ctid
    FROM (SELECT p.queue, p.alone, p.priority FROM place p
        WHERE p.alone
            AND (SELECT count(*) FROM stepd.jobs r WHERE r.lane = 2 AND (r.streak >= 4) AND r.state = 'running')
                + (SELECT count(*) FROM stepd.jobs r JOIN stepd_engine.workers w ON w.id = r.worker
                    WHERE r.lane = 1 AND (r.streak >= 4) AND r.state = 'queued' AND r.worker <> $1)
                < greatest(1, (SELECT count(*) FROM stepd_engine.workers w WHERE NOT w.stopping) / 2)
            AND CASE WHEN $2::text[] IS NULL
            THEN NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND (q.exclusive OR NOT q.open))
            ELSE p.queue = ANY ($2::text[]) AND NOT EXISTS (SELECT FROM stepd_engine.queues q WHERE q.name = p.queue AND NOT q.open) END
        ORDER BY p.priority, p.ready_at) p,
    LATERAL (SELECT j.ctid FROM stepd.jobs j
        WHERE j.lane = 1 AND j.queue = p.queue AND (j.streak >= 4) = p.alone AND j.priority = p.priority AND j.state = 'queued'
          AND (j.worker IS NULL OR j.worker = $1 OR NOT EXISTS (SELECT FROM stepd_engine.workers w WHERE w.id = j.worker))
        ORDER BY j.ready_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) x
    LIMIT 1))
