-- The steps that keep failing, so that the resumes of their runs stand still but for one. Caller: the command line's doctor.
SELECT b.workflow AS "workflow!", b.step AS "step!", b.opened_at AS "opened_at!", b.probe, b.next_at AS "next_at!", b.runs AS "runs!",
    clock_timestamp() AS "now!"
FROM stepd.breakers b WHERE b.closed_at IS NULL ORDER BY b.opened_at
