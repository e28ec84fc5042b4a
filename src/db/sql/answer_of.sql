-- The recorded answer of a step that has ended. Caller: services::writer, after expire.sql found it answered; services::sql_effect.
SELECT c.output, c.error FROM stepd_engine.checkpoints c WHERE c.run = $1 AND c.key = $2 AND c.state IN ('completed', 'failed')
