-- Mends lost wake-ups. Caller: services::sweeper.
SELECT stepd_engine.repair($1) AS "repaired!"
