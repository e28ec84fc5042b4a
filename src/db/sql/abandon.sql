-- Cancels the children of a run that ends without them. Caller: services::writer, after that has been committed.
SELECT stepd_engine.let_children_go($1, NULL, 'its parent has ended without it') IS NULL AS "done!"
