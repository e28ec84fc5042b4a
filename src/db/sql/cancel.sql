-- Cancels a run. Caller: the command line. Locks: the job's row, unless a worker has it.
SELECT stepd.cancel($1, $2) AS "done!"
