-- Pauses a run. Caller: the command line. Locks: the job's row, unless a worker has it.
SELECT stepd.pause($1, $2, $3) AS "done!"
