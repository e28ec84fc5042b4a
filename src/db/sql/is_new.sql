-- Was this job inserted by this very transaction? Caller: the HTTP API, after stepd.enqueue. Index: jobs_pkey.
SELECT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = $1 AND j.xmin = pg_current_xact_id()::xid) AS "new!"
