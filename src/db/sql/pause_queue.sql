-- Stops a queue's claims. Caller: the command line. Locks: the queue's row.
SELECT true AS "done!" FROM stepd.pause_queue($1)
