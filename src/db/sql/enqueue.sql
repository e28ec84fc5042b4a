-- Enqueues a run. Caller: the command line.
SELECT stepd.enqueue(workflow => $1, input => $2::text::jsonb, queue => $3, priority => $4, run_at => $5, unique_key => $6, labels => $7, session_id => $8) AS "id!"
