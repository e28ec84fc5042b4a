-- Admits what is held, as far as the limits allow. Caller: services::stager, in a statement of its own: a slow one must not keep sleeps from ending.
SELECT a.admitted, a.next_ms, a.last FROM stepd_engine.admit($1, $2) a
