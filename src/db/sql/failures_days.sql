-- Where all runs failed that ended since the day of $1: by workflow, step and code, the most frequent first; with the newest of each among the
-- newest $2 ended runs. A step of a map's item counts for the step: docs[12].text is docs[*].text. Caller: the HTTP API.
WITH failed AS (
    SELECT d.workflow, replace(d.step, '[]', '[*]') AS step, d.code, sum(d.runs) AS runs FROM stepd.daily_failures d
    WHERE d.day >= ($1::timestamptz AT TIME ZONE 'UTC')::date GROUP BY d.workflow, d.step, d.code ORDER BY sum(d.runs) DESC LIMIT 50
), sample AS MATERIALIZED (
    SELECT e.id, e.workflow, e.state, e.error, e.last_key, e.last_output
    FROM stepd_engine.ended e WHERE e.id >= stepd_engine.first_id($1) ORDER BY e.id DESC LIMIT $2
), newest AS (
    SELECT DISTINCT ON (s.workflow, s.step, s.code) s.workflow, s.step, s.code, s.id, s.message FROM (
        SELECT x.id, x.workflow, stepd_engine.failure_field(x.error, 'code') AS code, stepd_engine.failure_field(x.error, 'message') AS message,
            regexp_replace(CASE WHEN x.last_key IS NOT NULL AND x.last_output IS NULL THEN x.last_key
                ELSE (SELECT c.key FROM stepd_engine.checkpoints c WHERE c.run = x.id AND c.state = 'failed' AND NOT c.checkpoint ORDER BY c.seq DESC LIMIT 1) END,
                '\[[^]]*\]', '[*]', 'g') AS step
        FROM sample x WHERE x.state = 'failed' ORDER BY x.id DESC LIMIT 2000) s
    ORDER BY s.workflow, s.step, s.code, s.id DESC
)
SELECT f.workflow AS "workflow!", f.step AS "step?", f.code AS "code?", f.runs::bigint AS "runs!", n.id AS "last?", n.message AS "message?"
FROM failed f LEFT JOIN newest n ON n.workflow = f.workflow AND n.step IS NOT DISTINCT FROM f.step AND n.code IS NOT DISTINCT FROM f.code
ORDER BY f.runs DESC, f.workflow, f.step, f.code
