-- A worker's registration: a fresh id and a fresh lock number. None, where the schema has meanwhile become one that does not serve
-- this worker's version ($7) any more. Caller: services::presence.
WITH schema AS MATERIALIZED (
    SELECT max(m.version) AS version, max(m.serves) AS serves FROM stepd_engine.migrations m
), me AS (
    INSERT INTO stepd_engine.workers (host, pid, version, queues, slots, lease_ms, schema)
    SELECT $1, $2, $3, $4, $5, $6, $7 FROM schema s WHERE s.serves <= $7 AND s.version >= $7
    RETURNING id, number
)
SELECT me.id AS "id?", me.number AS "number?", clock_timestamp() AS "now!", s.version AS "schema!", s.serves AS "serves!"
FROM schema s LEFT JOIN me ON true
