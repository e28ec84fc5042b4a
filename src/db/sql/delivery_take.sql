-- Notes that a delivery of a webhook has come; nothing where it has come before. One that is under way in another transaction is waited for.
-- Caller: the HTTP server, in the transaction of what comes of it. Index: deliveries_pkey.
INSERT INTO stepd_engine.deliveries (hook, delivery) VALUES ($1, $2) ON CONFLICT DO NOTHING
