-- Where the newest $2 ended runs failed that were enqueued since $1: by workflow, step and code, the most frequent first. A step of a map's item
-- counts for the step: docs[12].text is docs[*].text. Caller: the HTTP API. Index: the primary key, walked from its end.
WITH sample AS MATERIALIZED (
    SELECT e.id, e.workflow, e.state, e.error, e.last_key, e.last_output
    FROM stepd_engine.ended e WHERE e.id >= stepd_engine.first_id($1) ORDER BY e.id DESC LIMIT $2
), failed AS MATERIALIZED (
    SELECT s.id, s.workflow, stepd_engine.failure_field(s.error, 'code') AS code, stepd_engine.failure_field(s.error, 'message') AS message,
        regexp_replace(CASE WHEN s.last_key IS NOT NULL AND s.last_output IS NULL THEN s.last_key
            ELSE (SELECT c.key FROM stepd_engine.checkpoints c WHERE c.run = s.id AND c.state = 'failed' AND NOT c.checkpoint ORDER BY c.seq DESC LIMIT 1) END,
            '\[[^]]*\]', '[*]', 'g') AS step
    FROM sample s WHERE s.state = 'failed' ORDER BY s.id DESC LIMIT 2000
)
SELECT f.workflow AS "workflow!", f.step AS "step?", f.code AS "code?", count(*) AS "runs!", (array_agg(f.id ORDER BY f.id DESC))[1] AS "last?",
    (array_agg(f.message ORDER BY f.id DESC))[1] AS "message?"
FROM failed f GROUP BY f.workflow, f.step, f.code ORDER BY count(*) DESC, max(f.id::text) DESC LIMIT 50
