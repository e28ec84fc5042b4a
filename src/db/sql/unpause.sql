-- Lets a paused run go on. Caller: the command line. Locks: the job's row, unless a worker has it.
SELECT stepd.unpause($1) AS "state!"
