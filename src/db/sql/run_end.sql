-- How a run ended, if it has; small enough to be asked again and again. Caller: the library's wait for a result.
-- One snapshot: a run that ends meanwhile is in one of the two tables.
SELECT e.state::text AS "state?", e.output, e.error, (e.id IS NOT NULL OR EXISTS (SELECT FROM stepd.jobs j WHERE j.id = w.id)) AS "known!"
FROM (SELECT $1::uuid AS id) w LEFT JOIN stepd_engine.ended e ON e.id = w.id
