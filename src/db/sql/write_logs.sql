-- Adds what steps have written ($2..$9, one row an attempt), and takes out what their tails do not reach any more ($10..$12). One
-- statement; sent again, it changes nothing. Caller: services::logs. Locks: the rows of the workers ($1, key share) and no run's, so that
-- nobody who records waits for it. Index: logs_pkey, jobs_pkey, ended_pkey.
-- A worker that has lost its registration writes nothing, and nobody writes for a claim that is still to come or for a run that is gone.
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = ANY ($1::uuid[]) ORDER BY w.id FOR KEY SHARE
), gone AS (
    DELETE FROM stepd_engine.logs l USING unnest($10::uuid[], $11::integer[], $12::bigint[]) AS g(run, epoch, n)
    WHERE l.run = g.run AND l.epoch = g.epoch AND l.n = g.n AND EXISTS (SELECT FROM me)
)
INSERT INTO stepd_engine.logs (run, epoch, n, first, at, attempt, key, lines)
SELECT c.run, c.epoch, c.n, c.first, c.at, c.attempt, c.key, c.lines
FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::smallint[], $8::text[], $9::text[])
    AS c(worker, run, epoch, n, first, at, attempt, key, lines)
WHERE c.worker IN (SELECT m.id FROM me m)
    AND (EXISTS (SELECT FROM stepd.jobs j WHERE j.id = c.run AND j.epoch >= c.epoch) OR EXISTS (SELECT FROM stepd_engine.ended e WHERE e.id = c.run AND e.epoch >= c.epoch))
ON CONFLICT (run, epoch, n) DO NOTHING
