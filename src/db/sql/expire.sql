-- Ends a wait whose time is up, unless it has been answered; then the answer comes back. Caller: services::writer.
SELECT stepd_engine.answer($1, $2, NULL, $3) AS "expired!"
