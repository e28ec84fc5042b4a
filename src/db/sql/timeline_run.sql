-- When a run was enqueued, claimed first, and ended. Caller: the HTTP API's timeline. Index: the primary keys.
SELECT r.created_at AS "created_at!", r.started_at, r.ended_at, statement_timestamp() AS "now!" FROM stepd.runs r WHERE r.id = $1
