-- Stages what is due and admits what is held. Caller: services::stager.
SELECT s.staged AS "staged!", s.next_ms, stepd_engine.admit($1) AS "admitted!" FROM stepd_engine.stage($1) s
