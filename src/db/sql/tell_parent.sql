-- Answers the step that waits for a run that has ended; NULL: ask again. Caller: services::writer, after the end has been committed.
SELECT stepd_engine.tell_parent($1) AS told
