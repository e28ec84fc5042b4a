-- Sets how many runs of a queue may be queued or running at once; NULL: any number. Caller: the command line. Locks: the queue's row.
SELECT true AS "done!" FROM stepd.limit_queue($1, $2)
