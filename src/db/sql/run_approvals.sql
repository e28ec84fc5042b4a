-- The approvals that a run waits for. Caller: the command line's run.
SELECT w.key AS "key!", w.prompt, w.schema::text AS schema FROM stepd.waiting w WHERE w.run = $1 AND w.waits_for = 'approval' ORDER BY w.since, w.key
