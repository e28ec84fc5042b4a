-- Admits what is held, as far as the limits allow. Caller: services::stager, in a statement of its own: a slow one must not keep sleeps from ending.
SELECT stepd_engine.admit($1) AS "admitted!"
