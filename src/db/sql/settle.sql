-- After a suspend: brings the run back if one of its waits has been answered meanwhile. False: ask again. Caller: services::afterwards.
SELECT stepd_engine.settle($1, $2) AS "settled!"
