-- The input of a run that was claimed without it, for it is large. Caller: services::writer, in the run's own task. Index: jobs_pkey.
SELECT j.input::text AS "input!" FROM stepd.jobs j WHERE j.id = $1
