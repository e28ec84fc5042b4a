-- Are the rows there that were acknowledged last? Caller: services::presence, on a new session: a server that has come up without what it
-- had acknowledged (`synchronous_commit = off`, a standby that had not received it) lacks the last of it first.
-- A step that was done must be so. What an operator has brought back since, or somebody else has claimed, has gone on from it. A run that is
-- nowhere any more was removed with its history (retention may be short), unless it is another server, or another start of it ($5), that lacks it.
SELECT NOT EXISTS (
    SELECT FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::boolean[]) AS r(run, key, epoch, done)
        LEFT JOIN stepd.jobs j ON j.id = r.run
    WHERE NOT EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = r.run AND c.key = r.key AND (c.ended_at IS NOT NULL OR NOT r.done))
        AND NOT EXISTS (SELECT FROM stepd_engine.ended e WHERE e.id = r.run)
        AND CASE WHEN j.id IS NULL THEN $5::timestamptz IS DISTINCT FROM pg_postmaster_start_time()
            ELSE j.epoch < r.epoch OR j.epoch = r.epoch AND j.state = 'running' END
) AS "kept!", pg_postmaster_start_time() AS "started!"
