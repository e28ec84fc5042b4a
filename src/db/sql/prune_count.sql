-- How many ended runs are older than they are kept. Caller: the command line's prune --dry-run. Reads all of the history that is older
-- than the shortest span.
WITH rules AS MATERIALIZED (
    SELECT r.workflow, r.state::stepd.run_state AS state, r.ms * interval '1 millisecond' AS age
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS r(workflow, state, ms)
)
SELECT e.workflow, e.state::text AS "state!", count(*) AS "runs!"
FROM stepd_engine.ended e
LEFT JOIN rules own ON own.workflow = e.workflow AND own.state = e.state
LEFT JOIN rules common ON common.workflow IS NULL AND common.state = e.state
WHERE e.id < stepd_engine.first_id(statement_timestamp() - (SELECT min(r.age) FROM rules r))
    AND e.ended_at <= statement_timestamp() - CASE WHEN own.state IS NULL THEN common.age ELSE own.age END
GROUP BY e.workflow, e.state ORDER BY e.workflow, e.state
