-- Holds taken notes for $3 milliseconds more. Fewer rows than asked: some have been dropped meanwhile. Caller: services::tracer.
-- Locks: the notes. Index: trace_notes_pkey.
UPDATE stepd_engine.trace_notes n SET due_at = clock_timestamp() + $3::bigint * interval '1 millisecond'
WHERE n.target = $1 AND n.id = ANY ($2)
