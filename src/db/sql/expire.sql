-- Ends a wait whose time is up, under the lease, unless it has been answered; NULL: the lease is lost. Caller: services::writer.
SELECT CASE WHEN EXISTS (SELECT FROM stepd.jobs j WHERE j.id = $1 AND j.worker = $4 AND j.epoch = $5 AND j.state = 'running')
    THEN stepd_engine.answer($1, $2, NULL, $3) END AS expired
