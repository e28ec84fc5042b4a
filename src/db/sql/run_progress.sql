-- Where a run stands, small enough to be asked again and again. Caller: the command line's run and enqueue --wait.
SELECT r.state::text AS "state!", CASE WHEN r.state NOT IN ('completed', 'failed', 'cancelled') THEN stepd.why(r.id) END AS why,
    CASE WHEN $2 THEN (SELECT count(*) FROM stepd.steps s WHERE s.run = r.id AND s.checkpoint) ELSE 0 END AS "done!"
FROM stepd.runs r WHERE r.id = $1
