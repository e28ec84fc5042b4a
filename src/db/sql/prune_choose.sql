-- The runs of a stretch of history that are older than they are kept, locked: $5 ended runs after the id $4 are looked at, and as many
-- chosen as have $6 steps together, but one at least. Caller: db::retention, in the transaction that removes them.
-- By id, which is by time of enqueueing: a run cannot have ended before, so that the walk ends at the first id younger than
-- the shortest span. Index: ended_pkey, checkpoints_pkey, children_child. A run that somebody retries at this moment is passed by.
WITH rules AS MATERIALIZED (
    SELECT r.workflow, r.state::stepd.run_state AS state, r.ms * interval '1 millisecond' AS age
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS r(workflow, state, ms)
), looked AS MATERIALIZED (
    SELECT e.id, e.state, e.workflow, e.ended_at FROM stepd_engine.ended e
    WHERE e.id > $4 AND e.id < stepd_engine.first_id(statement_timestamp() - (SELECT min(r.age) FROM rules r)) ORDER BY e.id LIMIT $5
), old AS MATERIALIZED (
    SELECT l.id FROM looked l
    LEFT JOIN rules own ON own.workflow = l.workflow AND own.state = l.state
    LEFT JOIN rules common ON common.workflow IS NULL AND common.state = l.state
    -- A run that has not been told yet of its child's end needs it.
    WHERE NOT EXISTS (SELECT FROM stepd_engine.children k, stepd.jobs j WHERE k.child = l.id AND k.attached AND NOT k.settled AND j.id = k.parent AND j.state NOT IN ('completed', 'failed', 'cancelled'))
        -- Its trace is still to be sent.
        AND l.ended_at < coalesce((SELECT stepd_engine.untraced_since()), 'infinity')
        AND l.ended_at <= statement_timestamp() - CASE WHEN own.state IS NULL THEN common.age ELSE own.age END
), sized AS MATERIALIZED (
    SELECT o.id, sum(c.steps) OVER (ORDER BY o.id) - c.steps >= $6 AS beyond FROM old o CROSS JOIN LATERAL (
        SELECT count(*) AS steps FROM (SELECT FROM stepd_engine.checkpoints c WHERE c.run = o.id LIMIT $6) n) c
), chosen AS MATERIALIZED (
    SELECT e.id FROM stepd_engine.ended e WHERE e.id IN (SELECT s.id FROM sized s WHERE NOT s.beyond) ORDER BY e.id FOR UPDATE SKIP LOCKED
)
SELECT ARRAY(SELECT c.id FROM chosen c ORDER BY c.id) AS "chosen!",
    -- Where the next pass goes on; NULL: nothing was there to look at.
    coalesce((SELECT s.id FROM sized s WHERE NOT s.beyond AND EXISTS (SELECT FROM sized b WHERE b.beyond) ORDER BY s.id DESC LIMIT 1),
        (SELECT l.id FROM looked l ORDER BY l.id DESC LIMIT 1)) AS last
