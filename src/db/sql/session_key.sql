-- What sessions of browsers are signed with, beside a token's hash. Caller: the HTTP server, once.
SELECT s.session_key AS "key!" FROM stepd_engine.settings s
