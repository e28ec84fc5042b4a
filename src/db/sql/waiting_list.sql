-- Steps that wait, the longest waiting first. Caller: the HTTP API. Index: checkpoints_waiting.
SELECT w.run AS "run!", w.key AS "key!", w.waits_for AS "waits_for!", w.workflow, w.since AS "since!", w.due_at, w.prompt, w.schema::text AS schema, w.event, w.match::text AS "match"
FROM stepd.waiting w ORDER BY w.since, w.run, w.key LIMIT 1000
