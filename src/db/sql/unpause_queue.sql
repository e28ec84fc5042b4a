-- Lets a queue be claimed from again. Caller: the command line. Locks: the queue's row.
SELECT true AS "done!" FROM stepd.unpause_queue($1)
