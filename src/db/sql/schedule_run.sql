-- Starts a run of a schedule now. Caller: the command line's schedule.
SELECT stepd.run_schedule($1) AS "run!"
