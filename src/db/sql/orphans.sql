-- After a claim of unknown outcome: the runs that the database gives to this worker. Caller: services::claimer.
-- No index leads here: it follows a lost connection, not a claim.
SELECT j.id, j.epoch FROM stepd.jobs j WHERE j.worker = $1 AND j.state = 'running'
