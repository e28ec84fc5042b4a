-- Sends a signal to a run. Caller: the command line.
SELECT stepd.signal($1, $2, $3::text::jsonb) AS "done!"
