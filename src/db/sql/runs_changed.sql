-- Runs that have changed since a mark: live ones by the transaction that wrote their row (one pass over the table, which holds
-- unfinished runs alone: 12 ms for 100,000), ended ones too, of those that ended lately, and those of $3 that have ended since, however late that was written.
-- Caller: the HTTP server's stream of all runs. Index: ended_by_time, ended_pkey.
SELECT j.id AS "id!" FROM stepd.jobs j WHERE age(j.xmin) <= (SELECT age(($1::text)::xid)) AND j.state NOT IN ('completed', 'failed', 'cancelled')
UNION
SELECT e.id FROM stepd_engine.ended e WHERE e.ended_at >= $2 AND age(e.xmin) <= (SELECT age(($1::text)::xid))
UNION
SELECT e.id FROM stepd_engine.ended e WHERE e.id = ANY ($3::uuid[])
LIMIT $4
