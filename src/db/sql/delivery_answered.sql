-- Keeps how a delivery is answered. Caller: the HTTP server, in the transaction that has taken it. Index: deliveries_pkey.
UPDATE stepd_engine.deliveries d SET answer = $3 WHERE d.hook = $1 AND d.delivery = $2
