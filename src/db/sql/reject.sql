-- Answers an approval with no; gives the step's key. Caller: the command line. Locks: the job's row, then the step's.
SELECT stepd.reject($1, $2, $3) AS "key!"
