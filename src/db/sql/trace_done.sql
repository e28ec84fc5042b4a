-- Removes notes whose runs the target has. Caller: services::tracer. Locks: the notes. Index: trace_notes_pkey.
DELETE FROM stepd_engine.trace_notes n WHERE n.target = $1 AND n.id = ANY ($2)
