-- Makes stored definitions the present ones of their workflows, and says what that changed. Caller: services::catalog,
-- after define.sql: another statement, so that it sees what another host has stored meanwhile.
-- In the order of the names, so that two hosts cannot wait for each other. What is as it was is not even locked.
-- The last load wins: what the caller has loaded before (`known`) is only looked at, for another worker may have loaded another since;
-- but a database that has lost it (a failover, a restored backup) gets it again.
WITH given AS (
    SELECT g.name, d.id, g.queue, g.priority, g.source, g.flow::jsonb AS flow, g.known, w.definition AS was, g.n
    FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::boolean[], $7::text[])
        WITH ORDINALITY AS g(name, hash, queue, priority, source, known, flow, n)
    JOIN stepd_engine.definitions d ON d.hash = g.hash
    LEFT JOIN stepd_engine.workflows w ON w.name = g.name
), loaded AS (
    INSERT INTO stepd_engine.workflows AS w (name, definition, queue, priority, source, flow)
    SELECT g.name, g.id, g.queue, g.priority, g.source, g.flow FROM given g
    WHERE (NOT g.known OR g.was IS NULL) AND NOT EXISTS (SELECT FROM stepd_engine.workflows w WHERE w.name = g.name AND w.retired_at IS NULL
        AND (w.definition, w.queue, w.priority, w.source, w.flow) IS NOT DISTINCT FROM (g.id, g.queue, g.priority, g.source, g.flow))
    ORDER BY g.name
    ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, queue = excluded.queue, priority = excluded.priority,
        source = excluded.source, flow = excluded.flow, loaded_at = clock_timestamp(), retired_at = NULL
    RETURNING w.name
)
SELECT g.id AS "id!", g.was AS "was?", EXISTS (SELECT FROM loaded l WHERE l.name = g.name) AS "changed!" FROM given g ORDER BY g.n
