-- After a suspend: brings the run back if one of its waits has been answered meanwhile. Caller: services::writer.
SELECT stepd_engine.settle($1, $2) IS NULL AS "done!"
