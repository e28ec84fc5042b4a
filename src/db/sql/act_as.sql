-- Names who acts on this connection from now on, beside its login: the audit trail has both. Caller: the HTTP server, before each
-- action, also for nobody ('').
SELECT set_config('stepd.actor', $1, false) AS "actor!"
