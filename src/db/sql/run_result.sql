-- What a run ended with. Caller: the command line's run and enqueue --wait.
SELECT r.output::text AS output, r.error::text AS error, r.step FROM stepd.runs r WHERE r.id = $1
