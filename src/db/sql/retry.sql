-- Takes up a failed run again. Caller: the command line. Locks: the job's row, or the ended one.
SELECT stepd.retry($1, $2) AS "state!"
