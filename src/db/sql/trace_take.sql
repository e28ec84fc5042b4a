-- Takes the oldest notes of a target for $3 milliseconds, $2 of them. Caller: services::tracer. Locks: the notes (skip locked).
-- Index: trace_notes_pkey.
UPDATE stepd_engine.trace_notes n SET due_at = clock_timestamp() + $3::bigint * interval '1 millisecond'
WHERE n.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.trace_notes x WHERE x.target = $1 AND x.due_at <= clock_timestamp()
    ORDER BY x.id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING n.id, n.runs, n.from_at, n.to_at, greatest(0, extract(epoch FROM clock_timestamp() - n.at))::float8 AS "age!"
