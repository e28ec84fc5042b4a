-- The newest run of each workflow, for the older system; $1: of this one alone. Most are among the newest; for those that are not, the live runs
-- are read once, and of the ended ones only the newest 5000: where that may not be all, `whole` is false. Caller: http::older. Index: the
-- primary keys.
WITH fresh AS MATERIALIZED (
    SELECT j.id, j.workflow FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') ORDER BY j.id DESC LIMIT 5000
), late AS MATERIALIZED (
    SELECT e.id, e.workflow FROM stepd_engine.ended e ORDER BY e.id DESC LIMIT 5000
), live AS MATERIALIZED (
    SELECT f.workflow, max(f.id::text COLLATE "C") AS id FROM fresh f GROUP BY f.workflow
), rest AS (
    SELECT j.workflow, max(j.id::text COLLATE "C") AS id FROM stepd.jobs j
    WHERE j.state NOT IN ('completed', 'failed', 'cancelled') AND ($1::text IS NULL OR j.workflow = $1) AND (SELECT count(*) = 5000 FROM fresh)
        AND NOT EXISTS (SELECT FROM live l WHERE l.workflow = j.workflow) GROUP BY j.workflow
), ended AS (
    SELECT l.workflow, max(l.id::text COLLATE "C") AS id FROM late l GROUP BY l.workflow
)
SELECT w.name AS "workflow!", greatest(l.id, r.id, e.id)::uuid AS "id?",
    -- A live one that is newer than all of the ended ones that were not read.
    e.id IS NOT NULL OR (SELECT count(*) < 5000 FROM late) OR coalesce(greatest(l.id, r.id) >= (SELECT min(x.id::text COLLATE "C") FROM late x), false) AS "whole!"
FROM stepd_engine.workflows w LEFT JOIN live l ON l.workflow = w.name LEFT JOIN rest r ON r.workflow = w.name LEFT JOIN ended e ON e.workflow = w.name
WHERE $1::text IS NULL OR w.name = $1
