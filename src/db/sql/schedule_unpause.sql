-- Lets a paused schedule go on. Caller: the command line's schedule.
SELECT stepd.unpause_schedule($1)
