-- Is the row there that was acknowledged last? Caller: services::presence, on a new session: a server that has come up without what it
-- had acknowledged (`synchronous_commit = off`, a standby that had not received it) lacks the last of it first.
-- A step that was done ($4) must be so. What an operator has brought back since, or somebody else has claimed, has gone on from it.
SELECT EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = $1 AND c.key = $2 AND (c.ended_at IS NOT NULL OR NOT $4::boolean))
    OR EXISTS (SELECT FROM stepd_engine.ended e WHERE e.id = $1) OR EXISTS (SELECT FROM stepd.jobs j WHERE j.id = $1 AND (j.epoch > $3 OR j.epoch = $3 AND j.state <> 'running')) AS "kept!"
