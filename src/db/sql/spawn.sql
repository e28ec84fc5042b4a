-- The child run of a step, inserted under the step's lease if it is not there yet. Caller: services::children.
-- Locks: the worker's row (key share). Index: children_pkey, jobs_pkey.
SELECT s.spawned, s.depth_ AS depth FROM stepd_engine.spawn($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8) s
