-- The newest run of each workflow that has one among the newest, for the older system. A workflow that is not told has none, or an older
-- one. Caller: http::older. Index: the primary keys; the live runs are read once.
WITH late AS MATERIALIZED (SELECT e.id, e.workflow FROM stepd_engine.ended e ORDER BY e.id DESC LIMIT 50000)
SELECT n.workflow AS "workflow!", max(n.id::text COLLATE "C")::uuid AS "id!"
FROM (SELECT j.workflow, j.id FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') UNION ALL SELECT l.workflow, l.id FROM late l) n
WHERE n.id >= coalesce((SELECT l.id FROM late l OFFSET 49999), '00000000-0000-0000-0000-000000000000') GROUP BY n.workflow
