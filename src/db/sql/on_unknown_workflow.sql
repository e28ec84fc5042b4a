-- What an INSERT with an unknown workflow does, for the whole database. Caller: the daemon, at start and reload, where configured.
UPDATE stepd_engine.settings SET on_unknown_workflow = $1 WHERE on_unknown_workflow <> $1
