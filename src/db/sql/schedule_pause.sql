-- Stops a schedule. Caller: the command line's schedule.
SELECT stepd.pause_schedule($1)
