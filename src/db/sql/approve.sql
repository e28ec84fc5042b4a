-- Answers an approval with yes; gives the step's key. Caller: the command line. Locks: the job's row, then the step's.
SELECT stepd.approve($1, $2, $3, $4::text::jsonb) AS "key!"
