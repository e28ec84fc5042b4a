-- The recorded answer of a step that has ended. Caller: services::writer, after expire.sql found it answered; services::sql_effect.
-- The lock makes a commit of it, which waits for a synchronous standby: a commit that nobody was told of can be seen before the standby
-- has it (its session was ended while it waited, or the server has come up from a crash), and whoever goes on from it must not lose it.
SELECT c.output, c.error FROM stepd_engine.checkpoints c WHERE c.run = $1 AND c.key = $2 AND c.state IN ('completed', 'failed')
FOR KEY SHARE
