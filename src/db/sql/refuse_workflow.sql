-- Refuses an unknown workflow as an INSERT would. Caller: cli::run. Index: none, the workflows are read.
SELECT stepd_engine.refuse_workflow($1)
