-- The steps that keep failing, so that the resumes of their runs stand still but for one. Caller: the command line's doctor.
SELECT b.workflow, b.target AS step, b.opened_at, b.probe, b.next_at,
    (SELECT count(*) FROM stepd.jobs j WHERE j.workflow = b.workflow AND j.target = b.target AND j.target IS NOT NULL AND j.state = 'resuming') AS "runs!",
    clock_timestamp() AS "now!"
FROM stepd_engine.breakers b WHERE b.closed_at IS NULL ORDER BY b.opened_at
