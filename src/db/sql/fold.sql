-- Adds noted ends of runs to the daily figures, $1 lines of them at the most. Caller: services::daily.
SELECT stepd_engine.fold($1) AS "folded!"
