-- What is still to be sent, by target: runs, and the age of the oldest note in seconds. Caller: services::tracer.
SELECT n.target, sum(cardinality(n.runs))::bigint AS "runs!",
    greatest(0, extract(epoch FROM clock_timestamp() - min(n.at)))::float8 AS "age!"
FROM stepd_engine.trace_notes n GROUP BY n.target
