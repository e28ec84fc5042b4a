-- The child runs of steps, each inserted under its step's lease if it is not there yet, in the order given. Caller: services::children.
-- Locks: the worker's row (key share). Index: children_pkey, jobs_pkey.
SELECT s.spawned, s.depth_ AS depth
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bool[]) WITH ORDINALITY AS c(run, worker, epoch, key, workflow, input, attached, n),
LATERAL stepd_engine.spawn(c.run, c.worker, c.epoch, c.key, c.workflow, c.input::jsonb, c.attached, $8) s
ORDER BY c.n
