-- Enqueues a run. Caller: the command line, the HTTP API, the library.
SELECT stepd.enqueue(workflow => $1, input => $2::text::jsonb, queue => $3, priority => $4, run_at => $5, unique_key => $6, labels => $7, session_id => $8,
    concurrency_key => $9, traceparent => $10) AS "id!"
