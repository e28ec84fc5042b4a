-- The recorded answer of a step. Caller: services::writer, after expire.sql found it answered.
SELECT c.state::text AS "state!", c.output, c.error FROM stepd_engine.checkpoints c WHERE c.run = $1 AND c.key = $2
