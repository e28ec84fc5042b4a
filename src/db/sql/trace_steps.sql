-- The steps of runs, so many at a time: of the first run those after key $2. Outputs up to $3 characters, 0: without. Caller: db::traces.
-- Index: checkpoints_pkey, children_pkey. LATERAL keeps to the order of the runs, so that nothing is sorted.
SELECT c.run, c.seq, c.key, c.label, c.kind, c.state::text AS "state!", c.attempts, c.epoch, c.started_at, c.ended_at,
    CASE WHEN $3 > 0 THEN left(c.output, $3) END AS output, CASE WHEN octet_length(c.error) <= 65536 THEN c.error END AS error, c.usage, c.child,
    CASE WHEN c.child IS NOT NULL THEN coalesce((SELECT e.workflow FROM stepd_engine.ended e WHERE e.id = c.child),
        (SELECT j.workflow FROM stepd.jobs j WHERE j.id = c.child)) END AS child_workflow
FROM unnest($1::uuid[]) WITH ORDINALITY AS r(run, n), LATERAL (
    SELECT s.*, CASE WHEN s.kind = 'workflow' THEN (SELECT k.child FROM stepd_engine.children k WHERE k.parent = s.run AND k.key = s.key ORDER BY k.n DESC LIMIT 1) END AS child
    FROM stepd_engine.checkpoints s WHERE s.run = r.run AND (r.n > 1 OR s.key > $2) AND NOT (s.checkpoint AND s.attempts = 0 AND s.state = 'completed')
    ORDER BY s.key LIMIT $4) c
LIMIT $4
