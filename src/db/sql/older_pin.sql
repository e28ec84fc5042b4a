-- Pins a run that nobody has seen yet (its INSERT is not committed) to a definition. Caller: http::older, in the transaction of the INSERT.
UPDATE stepd.jobs j SET definition = $2 WHERE j.id = $1
