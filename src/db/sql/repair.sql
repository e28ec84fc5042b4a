-- Mends lost wake-ups among the next unfinished runs after $2. Caller: services::sweeper.
SELECT r.mended AS "mended!", r.last FROM stepd_engine.repair($1, $2, $3, $4) AS r
