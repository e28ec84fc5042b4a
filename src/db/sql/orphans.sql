-- The runs that the database gives to this worker. Caller: services::claimer, after a claim of unknown outcome and now and then.
-- By lane, so that the claim indexes can lead past what is scheduled or waiting.
SELECT j.id AS "id!", j.epoch AS "epoch!" FROM stepd.jobs j WHERE j.lane = 0 AND j.worker = $1 AND j.state = 'running'
UNION ALL SELECT j.id, j.epoch FROM stepd.jobs j WHERE j.lane = 2 AND j.worker = $1 AND j.state = 'running'
